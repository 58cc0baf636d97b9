"""Students of teachers whose environment nobody knows: the records and the world model stand in."""

import json
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pytest
import torch
from rich.console import Console

import reverie
from reverie.datasets.options import load
from reverie.mistake import Mistake
from reverie.training.distil.__main__ import distil, teach, visit_states
from reverie.training.distil.without_environment import InModel, InRecords
from reverie.training.launch.make import compose_command
from reverie.world_models.base import Step, WorldModel

QUIET = Console(quiet=True)
STEPS, EPISODES = 10, 12
SMALL = dict(
    members=4,
    rows=200,
    episodes=3,
    rounds=1,
    degrees=[1],
    verdict={
        "starts": 8,
        "discount": 0.8,
        "fqe": {"updates": 20, "batch_size": 16, "hidden": [8], "replicas": 2},
        "doubly_robust": {"updates": 20, "hidden": [8]},
    },
)


def columns():
    """Cost-type records of a point that an action moves."""
    rng = np.random.default_rng(0)
    obs = rng.uniform(-1, 1, (EPISODES * STEPS, 2)).astype(np.float32)
    action = rng.uniform(-1, 1, (len(obs), 1)).astype(np.float32)
    ends = np.arange(len(obs)) % STEPS == STEPS - 1
    return {
        "observations": obs,
        "actions": action,
        "next_observations": obs + 0.1 * action,
        "rewards": -np.square(obs).sum(1),
        "terminals": np.zeros(len(obs), bool),
        "timeouts": ends,
    }


class Moved(WorldModel):
    """What the records come from."""

    def fit(self, data, progress=None):
        return {}

    def signature(self):
        return {}

    def step(self, obs, action, candidates=1, state=None):
        reward = -obs.square().sum(-1)
        ended = torch.zeros_like(reward, dtype=torch.bool)
        return Step((obs + 0.1 * action)[None], reward[None], ended[None], reward)


@pytest.fixture(scope="module")
def data():
    return load(columns(), name="point")


def teacher(obs):
    gain = torch.tensor([0.8, -0.4]).view(2, 1, 1)
    return torch.tanh(gain * obs[..., :1])


def in_model(data):
    return InModel(Moved(), data, seeds=2, episodes=3, box=3.0, device=torch.device("cpu"))


def test_states_come_from_rollouts_of_the_model_as_long_as_recorded_episodes(data):
    place = in_model(data)
    paths = visit_states(teacher, place, seed=4)
    assert [path.shape for path in paths] == [(3 * STEPS, 2)] * 2
    first = paths[0].reshape(3, STEPS, 2)
    starts = data.transitions.obs[data.episode_starts].double().numpy()
    assert all((starts == path[0]).all(1).any() for path in first)
    moves = 0.1 * np.tanh(0.8 * first[:, :-1, :1])
    np.testing.assert_allclose(np.diff(first, axis=1), np.repeat(moves, 2, 2), atol=1e-5)
    returns, _ = place.episode_returns(teacher, 4)
    assert returns.shape == (2, 3)
    np.testing.assert_allclose(returns[0], -np.square(first).sum((1, 2)), rtol=1e-5)
    again, _ = place.episode_returns(teacher, 4)
    assert torch.equal(returns, again)


def test_students_learn_from_records_alone_and_from_the_model(data):
    settings = compose_command("distil", run="nowhere", **{**SMALL, "rounds": 0})
    records = InRecords(data, seeds=2, rows=50)
    known = records.states(0).double().numpy()
    for place, more in ((records, None), (in_model(data), known)):
        student, _ = teach(teacher, place, settings, more)
        obs = torch.randn(2, 30, 2)
        torch.testing.assert_close(student.act(obs), teacher(obs), atol=1e-3, rtol=0)
    assert known.shape == (50, 2)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run of a file that names no environment."""
    folder = tmp_path_factory.mktemp("distil")
    np.savez(folder / "point.npz", **columns())
    run = reverie.make(
        "algorithm=td3_bc",
        dataset="file",
        **{"dataset.path": str(folder / "point.npz"), "agent.hidden": [8], "seeds": 2},
        **dict(updates=30, batch_size=16, threads=1, probe_starts=0, verdict={"starts": 0}),
        console=QUIET,
    )
    run.train(folder / "run", console=QUIET)
    return folder / "run"


def test_a_run_without_environment_is_distilled_and_says_by_what_it_was_scored(run_dir):
    with redirect_stdout(StringIO()) as printed:
        score = distil(compose_command("distil", run=str(run_dir), **SMALL))
    text = printed.getvalue()
    assert "no environment is known: states from the records alone, scored by fitted Q" in text
    assert "the teacher:" in text and "the student:" in text and "verdict: " in text
    found = json.loads((run_dir / "sparse_policy.json").read_text())
    assert found["environment"] is None and "returns" not in found
    assert np.mean(found["values"]["student"]) == pytest.approx(score)
    assert found["verdict"]["student"]["seeds"] == len(found["values"]["teacher"]) == 2
    assert (run_dir / "sparse_policy_1.c").is_file()


def test_what_leaves_nothing_to_score_by_is_refused_first(run_dir):
    verdict = {"fqe": {"updates": 0}}
    with pytest.raises(Mistake, match=r"nothing is left to score by: verdict\.fqe\.updates=0"):
        distil(compose_command("distil", run=str(run_dir), verdict=verdict))
    with pytest.raises(Mistake, match=r"verdict\.far=2"):
        distil(compose_command("distil", run=str(run_dir), verdict={"far": 2}))
