"""Collecting and refitting while learning: order, seeds apart, the same bits after a resume."""

from dataclasses import replace

import pytest
import torch

from reverie.datasets.readers.builtin import load_random
from reverie.datasets.replay import GrowingReplay, Mixture, Replay
from reverie.training.checkpoint import State
from reverie.training.logging import Log, NoTracker
from reverie.training.loop import Periods, train
from reverie.training.online import Online
from reverie.world_models.filters import KeepAll
from reverie.world_models.sources import BranchedRollouts
from reverie.world_models.true_dynamics import TrueDynamics

LIMIT = 7
HYPERPARAMETERS = {"environments": 2, "steps": 1, "every": 2, "capacity": 200, "refit_every": 8}
FIXED = {"warm": True, "collected_share": None}


@pytest.fixture
def data():
    """Forty random steps of a pendulum whose episodes end after seven."""
    return load_random(
        name=None,
        env_id="Pendulum-v1",
        env_kwargs={},
        max_episode_steps=LIMIT,
        steps=40,
        seed=0,
        reference=None,
    )


@pytest.fixture
def make_model(data):
    from tests.world_models.conftest import ensemble

    def make(**changes):
        hyperparameters = {"spec": data.spec, "seeds": 2, "termination": "known"}
        return ensemble(**(hyperparameters | changes))

    return make


def online(spec, **changes):
    return Online(spec=spec, seeds=2, **(FIXED | HYPERPARAMETERS | changes))


class Run:
    """Two seeds of SAC that collect, refit and roll out, in folder `folder`."""

    def __init__(self, data, model, agent, folder):
        self.agent, self.model = agent, model
        self.online = online(data.spec)
        synthetic = BranchedRollouts(
            model=model,
            transition_filter=KeepAll(),
            horizon=2,
            starts=6,
            every=4,
            retain=2,
            actions="policy",
        )
        self.real = GrowingReplay(data.transitions, seeds=2, capacity=200)
        self.synthetic = Replay(data.transitions[:1], seeds=2, capacity=synthetic.capacity)
        streams = {"real": self.real, "synthetic": self.synthetic}
        self.mixture = Mixture(streams, {"real": 4, "synthetic": 4}, seeds=2)
        self.sources = {"real": self.online.source, "synthetic": synthetic}
        cpu = torch.device("cpu")
        self.refit = self.online.refit(model, data, self.real, cpu)
        folder.mkdir(exist_ok=True)
        self.path = folder / "checkpoint.pt"
        self.log = Log(folder / "metrics.csv", NoTracker(), 2)
        seconds = {"training": 0.0, "fitting": 0.0}
        self.state = State(
            *(agent, self.mixture, self.sources, self.log, seconds, data, cpu),
            model_updates=self.refit,
        )
        self.refit.count = self.state.count

    def go(self, updates, resume=False):
        first = self.state.resume(self.path) if resume else 0
        self.log.begin()
        train(
            self.agent,
            self.mixture,
            self.sources,
            first=first,
            updates=updates,
            periods=Periods(log=5, evaluate=0, checkpoint=10),
            log=self.log,
            evaluate=lambda done: None,
            checkpoint=lambda done: self.state.save(self.path, done) if done % 10 == 0 else None,
            compile=lambda function: function,
            on_update=lambda done: None,
            model_updates=self.refit,
        )
        return {
            "agent": self.agent.state_dict(),
            "model": self.model.state_dict(),
            "real": self.real.contents(),
            "synthetic": self.synthetic.contents(),
        }, self.log.path.read_text()


@pytest.fixture
def make_run(data, make_model, make_sac, tmp_path):
    def make(folder):
        torch.manual_seed(3)
        agent, model = make_sac(data.spec, seeds=2), make_model()
        model.fit(data)
        return Run(data, model, agent, tmp_path / folder)

    return make


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_resumed_after_a_refit_ends_with_the_same_bits(make_run):
    whole, text = make_run("whole").go(30)
    make_run("killed").go(27)  # behind the checkpoint after 20 and the refit before update 25
    resumed, again = make_run("killed").go(30, resume=True)
    assert all(same(whole[part], resumed[part]) for part in whole) and text == again
    assert "world_model/holdout_loss" in text and "real/return" in text


def test_what_is_collected_is_real_and_joins_batches_starts_and_refits(make_run, data):
    run = make_run("run")
    seen = []
    refit = run.model.refit

    def watched(data, added, *, warm):
        seen.append(added)
        return refit(data, added, warm=warm)

    run.model.refit = watched
    run.go(18)
    # Two environments step before updates 1, 3, 5, ...; refits come before updates 9 and 17.
    assert [added.reward.shape for added in seen] == [(2, 8), (2, 16)]
    assert run.online.source.taken == 18 == int(run.real.size[0])
    added = run.real.added_rows()
    assert added.is_real.all() and not added.terminated.any()  # a time limit is no terminal
    assert torch.equal(seen[1].obs, added.obs[:, :16])
    assert not (added.obs[0].unsqueeze(1) == added.obs[1]).all(-1).any()  # each seed its own
    both = {tuple(row) for row in torch.cat([data.transitions.obs, added.obs[1]]).tolist()}
    drawn = {tuple(row) for row in run.real.sample(2, 2000).obs[1].tolist()}
    assert drawn == both


def test_a_refit_follows_the_rows_of_its_own_seed_only(data, make_model):
    model = make_model(max_epochs=10)
    model.fit(data)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    rows = data.transitions[torch.arange(40).repeat(10)].map(lambda c: torch.stack([c, c]))
    moved = rows.reward.clone()
    moved[1] += 3.0

    def refitted(reward, warm=True):
        model.load_state_dict(start)
        torch.manual_seed(1)  # not that of the first fit
        described = model.refit(data, replace(rows, reward=reward), warm=warm)
        assert {seeds.shape for seeds in described.values()} == {(2,)}
        obs, action = rows.obs[:, :40], rows.action[:, :40]
        return {n: v.clone() for n, v in model.state_dict().items()}, model.predict(obs, action)[0]

    plain, before = refitted(rows.reward)
    told, after = refitted(moved)
    seeds = [name for name in told if told[name].ndim]
    assert all(torch.equal(plain[name][0], told[name][0]) for name in seeds)
    # Towards the 3 by which the rows that only seed 1 has collected differ.
    assert (after - before)[1, ..., -1].mean() > 0.5

    model.max_epochs = 1
    near, fresh = (refitted(moved, warm)[0] for warm in (True, False))
    weights = [name for name in seeds if "weight" in name]
    distance = [sum((end[n] - start[n]).norm() for n in weights) for end in (near, fresh)]
    assert distance[0] < distance[1] / 2


def test_a_seed_that_lost_rows_leaves_the_others_as_they_were(data):
    replay = GrowingReplay(data.transitions, seeds=2, capacity=6)
    rows = data.transitions[:4].map(lambda c: torch.stack([c, c]))
    replay.add(rows, torch.tensor([[True] * 4, [True, False, True, False]]))
    added = replay.added_rows()
    assert torch.equal(added.obs[0], rows.obs[0])
    assert torch.equal(added.obs[1], rows.obs[1, [0, 2, 0, 2]])


def test_a_full_ring_drops_its_oldest_rows_and_keeps_the_dataset(data):
    replay = GrowingReplay(data.transitions[:3], seeds=2, capacity=2)
    for first in (10, 20):
        rows = data.transitions[first : first + 2].map(lambda c: torch.stack([c, c]))
        replay.add(rows, torch.ones(2, 2, dtype=torch.bool))
    drawn = replay.sample(2, 5000).reward
    kept = data.transitions.reward[torch.tensor([0, 1, 2, 20, 21])]
    for each in drawn:
        shares = (each.unsqueeze(1) == kept).float().mean(0)
        torch.testing.assert_close(shares, torch.full((5,), 0.2), rtol=0, atol=0.03)
    other = GrowingReplay(data.transitions[:3], seeds=2, capacity=2)
    other.restore(replay.contents())
    assert torch.equal(other.added_rows().obs, replay.added_rows().obs)
    assert replay.contents()["rows"].shape[1] == 2  # the dataset is in no checkpoint


def test_a_fixed_share_comes_from_what_was_collected_as_soon_as_there_is_any(data):
    replay = GrowingReplay(data.transitions[:3], seeds=2, capacity=4, added_share=0.25)
    rows = data.transitions[10:14].map(lambda c: torch.stack([c, c]))
    replay.add(rows, torch.tensor([[True, True, False, False], [False] * 4]))
    drawn = replay.sample(2, 4000).reward
    own = torch.isin(drawn, data.transitions.reward[10:12])
    assert own.sum(1).tolist() == [1000, 0]  # to the row; the second seed has none yet
    for each, old in zip(drawn, ~own, strict=True):
        shares = (each[old].unsqueeze(1) == data.transitions.reward[:3]).float().mean(0)
        torch.testing.assert_close(shares, torch.full((3,), 1 / 3), rtol=0, atol=0.03)
    ones = (drawn[0] == data.transitions.reward[10]).float().mean()
    assert ones == pytest.approx(0.125, abs=0.03)


def test_a_refit_is_not_compiled_though_the_first_fit_was(data, make_model):
    model = make_model(max_epochs=1)
    compiled = []

    def wrapper(function):
        compiled.append(function)
        return function

    model.compile_update(wrapper)  # as `training.fitting.fit` does
    model.fit(data)
    assert len(compiled) == 1
    replay = GrowingReplay(data.transitions, seeds=2, capacity=200)
    rows = data.transitions[:5].map(lambda c: torch.stack([c, c]))
    replay.add(rows, torch.ones(2, 5, dtype=torch.bool))
    refit = online(data.spec).refit(model, data, replay, torch.device("cpu"))
    refit.compile(wrapper)
    refit.change()
    assert len(compiled) == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"refit_every": 3}, r"online\.refit_every=3 must be a multiple of .* = 2 steps"),
        ({"refit_every": -2}, r"online\.refit_every=-2 must be a whole number"),
        ({"every": 0}, r"online\.every must be"),
        ({"capacity": 1}, r"online\.capacity=1 does not hold the 2 rows"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(data, changes, expected):
    with pytest.raises(ValueError, match=expected):
        online(data.spec, **changes)


def test_what_cannot_be_collected_or_refitted_is_refused(data, make_model):
    with pytest.raises(ValueError, match=r"dataset\.env_id="):
        online(replace(data.spec, env_id=None))
    replay = GrowingReplay(data.transitions, seeds=2, capacity=200)
    cpu = torch.device("cpu")
    refused = {
        "per_seed=true": make_model(per_seed=False),
        "termination=known": make_model(termination="learned"),
        r"online\.refit_every=0": TrueDynamics(
            spec=data.spec, seeds=2, seed=0, threads=1, rows=5, tolerance=1.0
        ),
    }
    for remedy, model in refused.items():
        with pytest.raises(ValueError, match=remedy):
            online(data.spec).refit(model, data, replay, cpu)
        assert online(data.spec, refit_every=0).refit(model, data, replay, cpu) is None
