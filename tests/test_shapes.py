"""Wrong shapes and types are refused while tests run, wherever a function is defined."""

import os

import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from reverie.agents.losses import expectile_loss, sum_bounds
from tests.shapes import _checked


def checked(fn):
    return _checked(fn, typechecker=beartype)


@pytest.mark.skipif(os.environ.get("REVERIE_SHAPE_CHECKS") == "0", reason="switched off")
def test_the_lower_layers_are_checked():
    assert expectile_loss(torch.zeros(2, 3), 0.5).shape == (2,)
    with pytest.raises(TypeCheckError):
        expectile_loss(torch.zeros(2, 3, 1), 0.5)
    with pytest.raises(BeartypeCallHintViolation):
        sum_bounds(0.0, 1.0, 3, ends="no")


def test_functions_of_the_same_code_share_their_checks_and_nothing_else():
    def make(factor):
        @checked
        def scale(x: Float[Tensor, "a b"], y: Float[Tensor, "a b"], more: int = factor):
            if more == 3:  # another of them runs within
                return make(1)(x, y) * 3
            return x * more + y * 0

        @checked
        def first(x: Float[Tensor, "a b"]) -> Float[Tensor, " a"]:
            return x[:, 0] if factor == 1 else x

        return scale if factor != 4 else first

    x = torch.ones(2, 3)
    one, two, three = make(1), make(2), make(3)
    for _ in range(2):
        assert (one(x, x) == 1).all() and (two(x, x) == 2).all() and (three(x, x) == 3).all()
        for scale in (one, two, three):
            with pytest.raises(TypeCheckError):
                scale(x, torch.ones(3, 2))
            with pytest.raises(TypeCheckError):
                scale(x, x, more="2")
    with pytest.raises(TypeCheckError, match="return value"):
        make(4)(x)


def test_what_says_nothing_stays_as_it_is():
    def bare(x):
        return x

    def plain(x: int) -> int:
        return x

    assert checked(bare) is bare and checked(plain) is plain
