"""Sparse policies: terms recovered, exports that agree, relabelling of what the student meets."""

import ctypes
import shutil
import subprocess
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from reverie.envs.evaluation import Evaluator
from reverie.envs.make import spec_of
from reverie.envs.specs import Spec
from reverie.training.distil.__main__ import best_of, teach, visit_states
from reverie.training.distil.sparse_policy import (
    SparsePolicy,
    fit_sparse_policy,
    labels,
    squashed_fit,
)

SPEC = Spec(env_id=None, obs_dim=2, action_dim=2, action_low=(-2.0, 0.0), action_high=(2.0, 3.0))
HYPERPARAMETERS = {
    "degrees": [1, 2, 3],
    "thresholds": [1e-3, 3e-2],
    "tolerance": 0.05,
    "alpha": 1e-6,
    "members": 5,
    "library_ensemble": False,
    "label_bound": 5.0,
    "angles": [],
    "seed": 0,
}


@pytest.fixture(scope="module")
def policy():
    """Two seeds with different terms: x0 - 0.5 x1^2 and 0.8 x0 x1; 0.3 + x0^3 and nothing."""
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal((400, 2)) for _ in range(2)]

    def aims(seed, x):
        one, two = x.T
        first = [one - 0.5 * two**2, 0.8 * one * two]
        second = [0.3 + one**3, 0 * one]
        return np.stack(first if seed == 0 else second, 1)

    actions = [np.tanh(aims(seed, x)) for seed, x in enumerate(rows)]
    return fit_sparse_policy(SPEC, rows, actions, **HYPERPARAMETERS)


def test_the_terms_are_found_and_no_others(policy):
    found, chosen = policy
    assert [[set(terms) for terms in own] for own in found.terms()] == [
        [{"x0", "x1^2"}, {"x0 x1"}],
        [{"1", "x0^3"}, set()],
    ]
    assert found.terms()[0][0] == pytest.approx({"x0": 1.0, "x1^2": -0.5}, abs=1e-6)
    assert [each["terms"] for each in chosen] == [3, 2]
    assert chosen[0]["degree"] == 2 and chosen[1]["degree"] == 3
    assert found.equations()[0][0] == "u0 = 0 + 2 tanh(+1.000 x0 -0.500 x1^2)"
    assert found.equations()[1][1] == "u1 = 1.5 + 1.5 tanh(0)"


def test_equations_and_exports_name_the_columns(policy):
    spec = replace(SPEC, obs_names=("level [cm]", "x0"), action_names=("valve\\", "v*/ ??/"))
    named = replace(policy[0], spec=spec)
    assert named.equations()[0][0] == "valve = 0 + 2 tanh(+1.000 level -0.500 x1^2)"
    assert named.terms() == policy[0].terms()
    assert "    # x[0]: level [cm]\n" in named.python(0)
    # A line of C that ends in a backslash, or in a trigraph for one, takes the next with it.
    assert "    // u[0]: valve_\n    // u[1]: v_/ __/\n    u[0] = " in named.c(0)
    compile(named.python(0), "act", "exec")


def test_code_for_chunks_says_how_to_play_them(policy):
    found = replace(policy[0], spec=replace(SPEC, chunk=2))
    for text in (found.python(0), found.c(0)):
        assert "Actions of 2 control steps, one after the other: play all, then ask again." in text
        assert "u[0]: action 0\n" in text and "u[1]: action 0 +1\n" in text
    assert "control steps" not in policy[0].python(0) + policy[0].c(0)


def test_code_for_histories_takes_past_actions_in_their_own_units(policy):
    # x[0] is seen now, x[1] the action before, from 0 to 3.
    spec = replace(SPEC, action_dim=1, action_low=(0.0,), action_high=(3.0,), stacked_actions=1)
    found = SparsePolicy(spec, policy[0].powers, policy[0].coefficients[:, :1])
    module: dict = {}
    exec(found.python(0), module)
    (seen, done), middle, half = (0.7, 2.5), 1.5, 1.5
    unit = torch.tensor([[[seen, (done - middle) / half]]], dtype=torch.float64)
    expected = middle + half * found.act(unit.expand(2, -1, -1))[0, 0, 0]
    assert module["act"]([seen, done])[0] == pytest.approx(float(expected), abs=1e-12)
    text = found.c(0)
    assert "const double x1 = (x[1] - 1.5) / 1.5;" in text and "* x1 * x1" in text
    assert "const double x1" not in found.c(1)  # of x[0] alone: compilers refuse what is not used
    for each in (text, found.python(0)):
        assert "newest first: the last 1 observation of 1 column, then the last 1 action" in each


@pytest.mark.parametrize("seed", [0, 1])
def test_exported_python_and_c_agree_with_the_policy(policy, seed, tmp_path):
    found, _ = policy
    obs = torch.randn(2, 30, 2, dtype=torch.float64)
    unit = found.act(obs)[seed]
    low, high = torch.tensor(SPEC.action_low), torch.tensor(SPEC.action_high)
    expected = ((high + low) / 2 + (high - low) / 2 * unit).numpy()

    module: dict = {}
    exec(found.python(seed), module)
    rows = obs[seed].tolist()
    np.testing.assert_allclose([module["act"](row) for row in rows], expected, atol=1e-12)

    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    source, library = tmp_path / "policy.c", tmp_path / "policy.so"
    source.write_text(found.c(seed))
    strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([compiler, *strict, str(source), "-o", str(library), "-lm"], check=True)
    act = ctypes.CDLL(str(library)).act
    for row, truth in zip(rows, expected, strict=True):
        given, out = (ctypes.c_double * 2)(*row), (ctypes.c_double * 2)()
        act(given, out)
        np.testing.assert_allclose(list(out), truth, atol=1e-12)


def test_what_is_saturated_does_not_pull_at_the_terms():
    """Actions of 3 x0, clipped before tanh: the linear fit is bent, that of the action is not."""
    rows = np.random.default_rng(0).standard_normal((2_000, 2))
    action = np.tanh(3 * rows[:, 0])
    clipped = np.arctanh(action.clip(-0.9, 0.9))
    bent = np.linalg.lstsq(rows, clipped, rcond=None)[0]
    assert bent[0] < 1.2 and abs(bent[1]) < 0.05
    found = squashed_fit(rows, action, bent, 0.01)
    np.testing.assert_allclose(found, [3.0, 0.0], atol=1e-6)
    assert found[1] == 0.0  # below the threshold, so it left


def test_fewer_states_than_terms_make_a_policy_too():
    states = np.random.default_rng(0).standard_normal((30, 2))
    settings = HYPERPARAMETERS | {"degrees": [1, 8], "thresholds": [1e-9]}
    found, chosen = fit_sparse_policy(SPEC, [states], [np.tanh(0.5 * states)], **settings)
    assert len(found.powers) == 45 and chosen[0]["degree"] == 1
    np.testing.assert_allclose(
        found.act(torch.tensor(states)[None])[0], np.tanh(0.5 * states), atol=1e-6
    )


def test_a_sine_enters_a_policy_at_most_once():
    angle = np.random.default_rng(0).uniform(-np.pi, np.pi, 500)
    rows = np.stack([np.cos(angle), np.sin(angle)], 1)
    action = np.tanh(np.stack([0.5 * rows[:, 1] ** 2, rows[:, 0] * rows[:, 1]], 1))
    found, _ = fit_sparse_policy(SPEC, [rows], [action], **{**HYPERPARAMETERS, "angles": [[0, 1]]})
    # s^2 is 1 - c^2.
    assert found.terms()[0][0] == pytest.approx({"1": 0.5, "x0^2": -0.5}, abs=1e-6)
    assert found.terms()[0][1] == pytest.approx({"x0 x1": 1.0}, abs=1e-6)


def test_each_seed_keeps_the_student_of_its_best_round():
    def student(value):
        coefficients = np.full((2, 2, 2), float(value))
        return SparsePolicy(SPEC, np.eye(2, dtype=int), coefficients), [{"terms": value}] * 2

    found, chosen = best_of(
        [student(1), student(2), student(3)], np.array([[5.0, 1.0], [7.0, np.nan], [6.0, 1.0]])
    )
    assert found.coefficients[:, 0, 0].tolist() == [2.0, 3.0]
    assert chosen == [{"terms": 2, "round": 1}, {"terms": 3, "round": 2}]


def test_labels_undo_the_tanh_up_to_a_bound():
    aims = torch.tensor([-9.0, -1.0, 0.0, 2.0, 9.0])
    found = labels(torch.tanh(aims), 5.0)
    torch.testing.assert_close(found, torch.tensor([-5.0, -1, 0, 2, 5]).double(), atol=1e-3, rtol=0)


def settings(**changes):
    return OmegaConf.merge(
        OmegaConf.load("conf/distil.yaml"), {"members": 4, "rows": 1000, "episodes": 2, **changes}
    )


def test_the_student_learns_from_states_that_it_meets_itself():
    spec = spec_of("ReverieEdgeOfReach-v0", env_kwargs={}, physics="as-is")
    spec = Spec(**{**vars(spec), "max_episode_steps": 6})

    def teacher(obs):  # each seed has a teacher of its own
        gain = torch.tensor([0.4, -0.2]).view(2, 1, 1)
        return torch.tanh(gain * obs)

    with closing(Evaluator(spec=spec, seeds=2, episodes=2)) as evaluator:
        paths = visit_states(teacher, evaluator, seed=5)
        assert [path.shape for path in paths] == [(12, 2), (12, 2)]
        student, chosen = teach(teacher, evaluator, settings(rounds=1, seed=0))
        obs = torch.randn(2, 50, 2)
        torch.testing.assert_close(student.act(obs), teacher(obs), atol=1e-4, rtol=0)
        assert [each["terms"] for each in chosen] == [2, 2]
    assert student.terms()[0][0] == pytest.approx({"x0": 0.4}, rel=1e-3)
    assert student.terms()[1][1] == pytest.approx({"x1": -0.2}, rel=1e-3)


def test_a_policy_without_terms_does_nothing():
    policy = SparsePolicy(SPEC, np.eye(2, dtype=int), np.zeros((1, 2, 2)))
    assert policy.act(torch.randn(1, 3, 2)).abs().max() == 0
    module: dict = {}
    exec(policy.python(0), module)
    assert module["act"]([1.0, 2.0]) == [0.0, 1.5]
