import pytest
import torch
from torch import nn

from reverie.agents.base import Agent
from reverie.datasets.replay import Mixture, Replay
from reverie.mistake import Mistake
from reverie.training.logging import Log, NoTracker
from reverie.training.loop import Periods, due, train
from reverie.world_models.sources import RolloutSource


class Watcher(Agent):
    """Learns nothing and remembers what it was given."""

    def __init__(self, spec, events):
        super().__init__(spec=spec, seeds=2)
        self.events, self.fakes = events, []

    def act(self, obs, deterministic=False):
        return torch.zeros(*obs.shape[:-1], 2)

    def update(self, batch):
        self.events.append("update")
        self.fakes.append(batch.reward[~batch.is_real].unique().tolist())
        return {"loss": torch.ones(2)}


class Numbered(RolloutSource):
    """Rows whose reward is the number of the rollout round; `keep` says whether any are kept."""

    def __init__(self, example, events, keep=True):
        nn.Module.__init__(self)
        self.every, self.starts, self.capacity = 3, 5, 10
        self.example, self.events, self.keep, self.calls = example, events, keep, 0

    def generate(self, policy, starts):
        assert starts.shape == (2, 5, 3) and policy(starts).shape == (2, 5, 2)
        self.calls += 1
        self.events.append("round")
        rows = self.example(2, 5)
        rows.reward[:] = self.calls
        rows.is_real[:] = False
        return rows, torch.full((2, 5), self.keep)


class Refits:
    """Fits nothing, every so many updates."""

    def __init__(self, every, events):
        self.every, self.events = every, events

    def __call__(self):
        self.events.append("refit")
        return {"world_model/epochs": torch.full((2,), 3.0)}


@pytest.fixture
def run(spec, make_batch, tmp_path):
    def go(updates, first=0, keep=True, refit=None):
        periods = Periods(log=2, evaluate=4, checkpoint=5)
        events = []
        agent, source = Watcher(spec, events), Numbered(make_batch, events, keep)
        real = make_batch(20)
        real.is_real[:] = True
        synthetic = Replay(real[:1], seeds=2, capacity=source.capacity)
        streams = {"real": Replay.of(real), "synthetic": synthetic}
        mixture = Mixture(streams, {"real": 2, "synthetic": 6}, seeds=2)
        log = Log(tmp_path / "m.csv", NoTracker(), 2)
        log.begin()
        train(
            agent,
            mixture,
            {"synthetic": source},
            first=first,
            updates=updates,
            periods=periods,
            log=log,
            evaluate=lambda done: events.append(f"evaluate {done}"),
            checkpoint=lambda done: events.append(f"checkpoint {done}"),
            compile=lambda function: function,
            on_update=lambda done: None,
            model_updates=None if refit is None else Refits(refit, events),
        )
        return agent, events, (tmp_path / "m.csv").read_text()

    return go


def test_a_rollout_round_comes_before_the_first_update_and_on_its_period(run):
    _, events, _ = run(7)
    order = [event for event in events if event in ("round", "update")]
    assert order == ["round", *["update"] * 3, "round", *["update"] * 3, "round", "update"]


def test_a_refit_comes_before_the_rollout_round_of_its_step_but_not_before_the_first(run):
    _, events, metrics = run(5, refit=3)
    order = [event for event in events if event in ("refit", "round", "update")]
    assert order == ["round", *["update"] * 3, "refit", "round", *["update"] * 2]
    assert "4,1,world_model/epochs,3\n" in metrics
    _, events, _ = run(5, first=3, refit=3)  # a resumed run repeats the refit of its first step
    assert events[:2] == ["refit", "round"]


def test_events_come_on_their_periods_and_after_the_last_update(run):
    _, events, metrics = run(7)
    assert [e for e in events if e.startswith("evaluate")] == ["evaluate 4", "evaluate 7"]
    assert [e for e in events if e.startswith("checkpoint")] == ["checkpoint 5", "checkpoint 7"]
    logged = {line.split(",")[0] for line in metrics.splitlines() if ",loss," in line}
    assert logged == {"2", "4", "6", "7"}


def test_a_resumed_loop_goes_on_where_it_was(run):
    _, events, _ = run(7, first=5)
    assert events.count("update") == 2
    assert [e for e in events if "evaluate" in e or "checkpoint" in e] == [
        "evaluate 7",
        "checkpoint 7",
    ]


def test_the_synthetic_replay_keeps_the_latest_rounds(run):
    agent, _, _ = run(30)
    assert agent.fakes[0] == [1.0]
    assert set(agent.fakes[-1]) <= {9.0, 10.0}  # ten rows hold two rollout rounds of five


def test_a_rollout_round_that_leaves_nothing_is_an_error(run):
    with pytest.raises(Mistake, match=r"gave seeds \[0, 1\] no rows"):
        run(3, keep=False)


def test_a_period_of_zero_never_comes():
    assert not any(due(done, 0, 10) for done in range(1, 11))
    assert [done for done in range(1, 11) if due(done, 4, 10)] == [4, 8, 10]
