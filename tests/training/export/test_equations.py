"""Equations of a distilled policy: read as data, written with all digits."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.training.distil.sparse_policy import SparsePolicy
from reverie.training.export import equations
from reverie.training.export.controller import TOLERANCE, controller_of, self_test_observations
from reverie.training.files import write_json

SPEC = Spec(None, 2, 2, (-2.0, 0.0), (2.0, 3.0), obs_names=("h_1 [cm]", "\\input{x} $"))
POWERS = np.array([[0, 0], [1, 0], [2, 1]])
COEFFICIENTS = np.array([[[0.1, -1.25, 0.0], [0.0, 0.0, 3e-7]], [[0.0, 1 / 3, 2.0], [0, 0, 0]]])
POLICY = SparsePolicy(SPEC, POWERS, COEFFICIENTS)


@pytest.fixture
def run_dir(tmp_path):
    record = {"terms": POLICY.terms(), "returns": {"student": [1.0, 2.0]}}
    (tmp_path / equations.DISTILLED).write_text(json.dumps(record))
    return tmp_path


@pytest.mark.parametrize("seed", [0, 1])
def test_what_was_written_says_the_same_again(run_dir, tmp_path, seed):
    found, known = equations.read(run_dir, SPEC, 2)
    assert known == {"returns": {"student": [1.0, 2.0]}}
    obs = self_test_observations(SPEC, 20, None, ())
    expected = POLICY.act(obs.double().expand(2, -1, -1))[seed]
    assert torch.allclose(equations.act(found, seed)(obs), expected)
    controller = controller_of(SPEC, (), obs, lambda rows: expected)
    assert equations.export(found, seed, controller, tmp_path, 3).difference <= TOLERANCE


def test_text_and_latex_hold_every_digit_and_name(run_dir):
    found, _ = equations.read(run_dir, SPEC, 2)
    text = equations.text(found, 0)
    assert "u0 = 0 + 2 tanh(+ 0.1 - 1.25 x0)" in text and "x0: h_1 [cm]" in text
    assert "u1 = 1.5 + 1.5 tanh(+ 3e-07 x0^2 x1)" in text and "\\" not in text
    assert "tanh(0)" in equations.text(found, 1)
    latex = equations.latex(found, 0)
    assert "3 \\cdot 10^{-7} x_{0}^{2} x_{1}" in latex and "h\\_1 [cm]" in latex
    assert "\\input" not in latex and "\\textbackslash{}input\\{x\\} \\$" in latex
    assert latex.count("{") == latex.count("}")


def test_equations_of_chunks_say_how_to_play_them():
    chunked = SparsePolicy(replace(SPEC, chunk=2), POWERS, COEFFICIENTS)
    for write in (equations.text, equations.latex):
        assert "play all, then ask again" in write(chunked, 0)
        assert "ask again" not in write(POLICY, 0)


def test_a_run_that_was_not_distilled_says_how(tmp_path):
    with pytest.raises(Mistake, match=r"was not distilled.*python -m training\.distil run=") as e:
        equations.read(tmp_path, SPEC, 2)
    assert "\n" not in str(e.value)


def test_terms_that_are_not_those_that_were_written_are_refused(tmp_path):
    path = tmp_path / equations.DISTILLED
    terms = [[{"x0": 1.5}, {"1": 2.0}], [{"x1": -0.5}, {}]]
    write_json(path, {"terms": terms}, with_digest=True)
    policy, _ = equations.read(tmp_path, SPEC, 2)
    assert np.abs(policy.coefficients).sum() == 4.0
    path.write_text(path.read_text().replace("1.5", "1.7"))
    with pytest.raises(Mistake, match="its values are not those that were written"):
        equations.read(tmp_path, SPEC, 2)
    write_json(path, {"terms": terms})  # as earlier versions did
    equations.read(tmp_path, SPEC, 2)


@pytest.mark.parametrize(
    "terms",
    [
        None,
        [[{}, {}]],
        [[{}], [{}]],
        [[{}, []], [{}, {}]],
        [[{"x2": 1.0}, {}], [{}, {}]],
        [[{"__import__('os')": 1.0}, {}], [{}, {}]],
        [[{"x0": "1"}, {}], [{}, {}]],
        [[{"x0": True}, {}], [{}, {}]],
    ],
    ids=str,
)
def test_terms_that_are_none_are_refused(tmp_path, terms):
    (tmp_path / equations.DISTILLED).write_text(json.dumps({"terms": terms}))
    with pytest.raises(Mistake, match=re.escape(f"{equations.DISTILLED} is damaged")):
        equations.read(tmp_path, SPEC, 2)
