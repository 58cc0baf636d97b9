"""Sparse policies: terms recovered, exports that agree, relabelling of what the student meets."""

import ctypes
import shutil
import subprocess
from contextlib import closing

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from envs.evaluation import Evaluator
from envs.make import spec_of
from envs.specs import Spec
from training.distil import taught, visited
from training.sparse_policy import SparsePolicy, distilled, labels

SPEC = Spec(env_id=None, obs_dim=2, action_dim=2, action_low=(-2.0, 0.0), action_high=(2.0, 3.0))
NUMBERS = {
    "degrees": [1, 2, 3],
    "thresholds": [1e-3, 3e-2],
    "tolerance": 0.05,
    "alpha": 1e-6,
    "members": 5,
    "library_ensemble": False,
    "seed": 0,
}


@pytest.fixture(scope="module")
def policy():
    """Two seeds with different terms: x0 - 0.5 x1^2 and 0.8 x0 x1; 0.3 + x0^3 and nothing."""
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal((400, 2)) for _ in range(2)]

    def aims(lane, x):
        one, two = x.T
        first = [one - 0.5 * two**2, 0.8 * one * two]
        second = [0.3 + one**3, 0 * one]
        return np.stack(first if lane == 0 else second, 1)

    targets = [aims(lane, x) for lane, x in enumerate(rows)]
    found, chosen = distilled(
        SPEC, rows, targets, rows, [np.tanh(aim) for aim in targets], **NUMBERS
    )
    return found, chosen


def test_the_terms_are_found_and_no_others(policy):
    found, chosen = policy
    assert [[set(terms) for terms in lane] for lane in found.terms()] == [
        [{"x0", "x1^2"}, {"x0 x1"}],
        [{"1", "x0^3"}, set()],
    ]
    assert found.terms()[0][0] == pytest.approx({"x0": 1.0, "x1^2": -0.5}, abs=1e-6)
    assert [each["terms"] for each in chosen] == [3, 2]
    assert chosen[0]["degree"] == 2 and chosen[1]["degree"] == 3
    assert found.equations()[0][0] == "u0 = 0 + 2 tanh(+1.000 x0 -0.500 x1^2)"
    assert found.equations()[1][1] == "u1 = 1.5 + 1.5 tanh(0)"


@pytest.mark.parametrize("lane", [0, 1])
def test_exported_python_and_c_agree_with_the_policy(policy, lane, tmp_path):
    found, _ = policy
    obs = torch.randn(2, 30, 2, dtype=torch.float64)
    unit = found.act(obs)[lane]
    low, high = torch.tensor(SPEC.action_low), torch.tensor(SPEC.action_high)
    expected = ((high + low) / 2 + (high - low) / 2 * unit).numpy()

    module: dict = {}
    exec(found.python(lane), module)
    rows = obs[lane].tolist()
    np.testing.assert_allclose([module["act"](row) for row in rows], expected, atol=1e-12)

    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    source, library = tmp_path / "policy.c", tmp_path / "policy.so"
    source.write_text(found.c(lane))
    strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([compiler, *strict, str(source), "-o", str(library), "-lm"], check=True)
    act = ctypes.CDLL(str(library)).act
    for row, truth in zip(rows, expected, strict=True):
        given, out = (ctypes.c_double * 2)(*row), (ctypes.c_double * 2)()
        act(given, out)
        np.testing.assert_allclose(list(out), truth, atol=1e-12)


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
        paths = visited(teacher, evaluator, seed=5)
        assert [path.shape for path in paths] == [(12, 2), (12, 2)]
        student, chosen = taught(teacher, evaluator, settings(rounds=1, seed=0))
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
