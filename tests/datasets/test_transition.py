from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from reverie.datasets.transition import Transition, column_names, concatenate, register


@register
@dataclass(frozen=True)
class Tagged(Transition):
    tag: Tensor


def test_indexing_applies_to_every_column(make_batch):
    batch = make_batch(4, 5)
    row = batch[2, 3]
    assert row.shape == ()
    assert torch.equal(row.obs, batch.obs[2, 3])
    assert torch.equal(row.terminated, batch.terminated[2, 3])


def test_pytrees_see_the_columns_in_order(make_batch):
    batch = make_batch(4)
    leaves = pytree.tree_leaves(batch)
    assert len(leaves) == len(column_names(Transition)) == 6
    assert torch.equal(leaves[0], batch.obs)
    doubled = pytree.tree_map(lambda column: column, batch)
    assert isinstance(doubled, Transition)


def test_subclass_columns_follow_the_base_columns(make_batch):
    base = make_batch(4)
    tagged = Tagged(**vars(base), tag=torch.arange(4.0))
    assert column_names(tagged)[:6] == column_names(Transition)
    assert torch.equal(tagged[1:3].tag, torch.tensor([1.0, 2.0]))


def test_concatenate_joins_along_a_leading_dimension(make_batch):
    first, second = make_batch(2, 3), make_batch(2, 5)
    joined = concatenate([first, second], 1)
    assert joined.shape == (2, 8)
    assert torch.equal(joined.action[:, 3:], second.action)


def test_a_transition_is_frozen(make_batch):
    with pytest.raises(AttributeError):
        make_batch(2).reward = torch.zeros(2)
