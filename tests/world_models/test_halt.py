"""The pessimistic MDP: what is known stays as it is, what is not ends at a low reward."""

import logging
from dataclasses import replace

import pytest
import torch

from reverie.mistake import Mistake
from reverie.world_models.base import Step, WorldModel
from reverie.world_models.filters import Chain, KeepAll, UncertaintyPenalty
from reverie.world_models.halt import PessimisticHalt
from reverie.world_models.simulator import ModelSimulator, SimulatorRollouts
from reverie.world_models.sources import BranchedRollouts


class Ruler(WorldModel):
    """Moves by the action and is as unsure as it is far out; seed 1 is twice as unsure."""

    def fit(self, data, progress=None):
        return {}

    def signature(self):
        return {}

    def step(self, obs, action, candidates=1, state=None):
        lead = (candidates, *obs.shape[:-1])
        doubt = obs[..., 0].abs() * torch.arange(1.0, len(obs) + 1).unsqueeze(1)
        return Step(
            next_obs=(obs + action).expand(*lead, -1),
            reward=obs[..., 0].expand(lead),
            terminated=(obs[..., 0] < -0.5).expand(lead),
            uncertainty=doubt,
        )


@pytest.fixture
def data(make_dataset):
    """Hundred rows; the first column of the states is 0, 0.01, ..., 0.99, the reward -5 ... -1."""
    found = make_dataset(episodes=2)
    obs = found.transitions.obs.clone()
    obs[:, 0] = torch.arange(100) / 100
    reward = torch.linspace(-5, -1, 100)
    return replace(found, transitions=replace(found.transitions, obs=obs, reward=reward))


def halt(data=None, seeds=2, discount=0.9, **changes):
    numbers = {"quantile": 1.0, "limit": None, "scale": 1.0, "floor": -9.0, "absorbing": False}
    judge = PessimisticHalt(**(numbers | changes))
    if data is not None:
        judge.prepare(data, Ruler(), seeds=seeds, discount=discount)
    return judge


def proposal(*doubts):
    """A step of one seed with a row for each uncertainty; every second row is terminal."""
    rows = len(doubts)
    return Step(
        next_obs=torch.randn(1, 1, rows, 2),
        reward=torch.randn(1, 1, rows),
        terminated=(torch.arange(rows) % 2 == 1).expand(1, 1, rows),
        uncertainty=torch.tensor([doubts]),
        state=torch.randn(1, 1, rows, 4),
    )


def judged(judge, step):
    rows = step.reward.shape[-1]
    return judge(torch.zeros(1, rows, 2), torch.zeros(1, rows, 1), step)


def test_what_is_known_stays_as_it_is_to_the_bit(data):
    step = proposal(0.0, 0.5, 0.9, 0.99)
    found, plain = (judged(judge, step) for judge in (halt(data, seeds=1), KeepAll()))
    for name in ("next_obs", "reward", "terminated", "uncertainty", "state"):
        assert torch.equal(getattr(found.step, name), getattr(plain.step, name)), name
    assert torch.equal(found.keep, plain.keep) and torch.equal(found.goes_on, plain.goes_on)


def test_what_is_not_known_is_stored_as_an_end_at_the_floor(data):
    step = proposal(0.5, 0.5, 1.5, 1.5, float("nan"))
    found = judged(halt(data, seeds=1), step)
    assert torch.equal(found.step.reward[0, 0, 2:], torch.full((3,), -9.0))
    assert torch.equal(found.step.reward[..., :2], step.reward[..., :2])
    assert found.step.terminated.tolist() == [[[False, True, True, True, True]]]
    assert found.keep.all() and found.goes_on.tolist() == [[True, True, False, False, False]]
    assert torch.equal(found.step.next_obs, step.next_obs)
    assert torch.equal(found.step.state, step.state)


@pytest.mark.parametrize(
    ("changes", "limits", "beyond"),
    [
        ({}, [0.99, 1.98], [0.0, 0.0]),
        ({"quantile": 0.5}, [0.49, 0.98], [0.5, 0.5]),
        ({"scale": 0.5}, [0.495, 0.99], [0.5, 0.5]),
        ({"scale": [1.0, 0.5]}, [0.99, 0.99], [0.0, 0.5]),
        ({"quantile": None, "limit": 0.4, "scale": 2.0}, [0.8, 0.8], [0.19, 0.59]),
    ],
)
def test_the_limit_is_a_quantile_over_the_recorded_rows_or_given(data, changes, limits, beyond):
    judge = halt(data, **changes)
    assert judge.limit.shape == (2, 1)
    assert judge.metrics()["limit"].tolist() == pytest.approx(limits)
    assert judge.metrics()["beyond_limit"].tolist() == pytest.approx(beyond)
    obs, action = torch.full((2, 1, 2), 0.6), torch.zeros(2, 1, 1)  # u = 0.6 and 1.2
    known = judge(obs, action, Ruler().step(obs, action)).goes_on
    assert known.tolist() == [[u <= limit] for u, limit in zip((0.6, 1.2), limits, strict=True)]


def test_equal_data_and_model_give_equal_bits_also_in_place(data):
    judge, other = halt(data), halt(data)
    assert torch.equal(judge.limit, other.limit)
    place = judge.limit.data_ptr()
    judge.prepare(data, Ruler(), seeds=2, discount=0.9)
    assert torch.equal(judge.limit, other.limit) and judge.limit.data_ptr() == place


@pytest.mark.parametrize(("floor", "reward"), [("auto", -9.0), (-7.0, -7.0)])
def test_an_absorbing_halt_pays_its_floor_where_it_was_taken(data, floor, reward):
    step, obs = proposal(0.5, 9.0, 9.0), torch.randn(1, 3, 2)
    found = halt(data, seeds=1, floor=floor, absorbing=True)(obs, torch.zeros(1, 3, 1), step)
    assert found.step.reward[0, 0].tolist() == [step.reward[0, 0, 0].item(), reward, reward]
    assert torch.equal(found.step.next_obs[0, 0, 1:], obs[0, 1:])
    assert torch.equal(found.step.next_obs[0, 0, 0], step.next_obs[0, 0, 0])
    assert not found.step.terminated.any()  # the model ends the second row
    assert found.goes_on.tolist() == [[True, False, False]] and found.keep.all()


def test_who_halts_again_earns_the_floor_for_ever(data):
    """Values of the policy that halts, and of one that does so half the time, by iteration.

    The other half pays 1 and comes back: v = (floor + 1) / 2 + discount v.
    """
    rows = judged(halt(data, seeds=1, absorbing=True), proposal(9.0)).step
    assert torch.equal(rows.next_obs, torch.zeros_like(rows.next_obs))  # where it began
    always = sometimes = 0.0
    for _ in range(400):
        ahead = 0.9 * (1 - rows.terminated.double().item())
        always = rows.reward.item() + ahead * always
        sometimes = 0.5 * (rows.reward.item() + ahead * sometimes) + 0.5 * (1 + 0.9 * sometimes)
    assert always == pytest.approx(-9 / (1 - 0.9))
    assert sometimes == pytest.approx(-4 / (1 - 0.9))


def test_a_halt_that_is_worth_more_than_the_data_is_warned_of(data, caplog):
    """Rewards below 0 and a floor of 0: to halt is to escape."""
    halt(data, floor=0.0)
    assert "a halt is worth 0, more than" in caplog.text
    assert "filter.absorbing=true" not in caplog.text  # 0 for ever is 0
    caplog.clear()
    halt(data, floor=0.0, absorbing=True)
    assert "a halt is worth 0, more than" in caplog.text


def test_each_remedy_of_the_warning_silences_it(data, caplog):
    # Once -9, where the worst episode goes on at a mean of -4.
    halt(data)
    assert "set filter.absorbing=true, or filter.floor to -" in caplog.text
    enough = float(caplog.text.split("filter.floor to ")[1].split()[0])
    caplog.clear()
    halt(data, absorbing=True)
    halt(data, floor=enough - 0.01)
    assert not caplog.text
    halt(data, floor=enough + 0.1)
    assert "a halt is worth" in caplog.text


def test_rewards_above_zero_need_no_floor_for_ever(data, caplog):
    rows = replace(data.transitions, reward=data.transitions.reward + 10)
    halt(replace(data, transitions=rows), floor=0.0)
    halt(replace(data, transitions=rows))
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


def test_a_halt_and_a_penalty_compose(data):
    chain = Chain(filters=[halt(), UncertaintyPenalty(penalty=0.5, unit="raw")])
    told = chain.prepare(data, Ruler(), seeds=1, discount=0.9)
    assert told.startswith("filter: halts at -9 where") and told.endswith("rows 0 % do")
    step = proposal(0.5, 0.5, 1.5)
    found = judged(chain, step)
    expected = torch.cat([step.reward[0, 0, :2] - 0.25, torch.tensor([-9 - 0.75])])
    torch.testing.assert_close(found.step.reward[0, 0], expected)
    assert found.goes_on.tolist() == [[True, True, False]] and found.keep.all()
    assert set(chain.metrics()) == {"limit", "beyond_limit"}


def test_a_rollout_halts_once_and_says_how_often(data):
    source = BranchedRollouts(
        model=Ruler(),
        transition_filter=halt(),
        horizon=4,
        starts=3,
        every=1,
        retain=1,
        actions="policy",
    )
    source.prepare(data, seeds=1, discount=0.9)
    starts = torch.tensor([[0.0, 0.5, 2.0]]).unsqueeze(-1).expand(1, 3, 2)
    rows, keep = source.generate(lambda obs: torch.full((*obs.shape[:-1], 1), 0.4), starts)
    # From 0 the states are 0, 0.4, 0.8, 1.2; from 0.5: 0.5, 0.9, 1.3; and 2.
    kept = keep.unflatten(1, (4, 3))
    assert kept[0].sum(0).tolist() == [4, 3, 1]
    rows = rows.map(lambda column: column.unflatten(1, (4, 3)))
    ended = [rows.reward[0, step, row].item() for step, row in ((3, 0), (2, 1), (0, 2))]
    assert ended == [-9.0] * 3 and (rows.terminated & kept).sum() == 3
    measured = source.metrics()
    assert measured["cut"].item() == pytest.approx(3 / 8)
    assert measured["beyond_limit"].item() == 0


def test_a_world_model_as_simulator_halts_too(data, toy_spec):
    simulator = ModelSimulator(
        spec=toy_spec,
        seeds=1,
        model=Ruler(),
        transition_filter=halt(),
        environments=2,
        horizon=5,
    )
    source = SimulatorRollouts(
        simulator=simulator, steps=2, every=1, warmup=0, random_warmup=False, capacity=9
    )
    source.prepare(data, seeds=1, discount=0.9)
    starts = torch.tensor([[0.5, 2.0, 0.5, 2.0]]).unsqueeze(-1).expand(1, 4, 2)
    rows, _ = source.generate(lambda obs: torch.zeros(*obs.shape[:-1], 1), starts)
    assert rows.terminated[0].tolist() == [False, True, False, True]
    assert source.metrics()["limit"].item() == pytest.approx(0.99)


def test_recorded_rows_of_an_ensemble_are_known_and_far_ones_are_not(make_dataset, make_ensemble):
    data = make_dataset()
    model = make_ensemble(seeds=2, uncertainty="max_pairwise")
    model.fit(data)
    judge = halt()
    judge.prepare(data, model, seeds=2, discount=0.9)
    assert judge.beyond_limit.tolist() == [0, 0] and (judge.limit > 0).all()
    rows = data.transitions[::50]
    here, action = (x.expand(2, -1, -1) for x in (rows.obs, rows.action))
    # Rows in other blocks than before: the largest may differ in its last bits.
    assert judge(here, action, model.step(here, action)).goes_on.float().mean() > 0.9
    there = torch.full_like(here, 1e4)
    assert not judge(there, action, model.step(there, action)).goes_on.any()


def test_what_makes_no_sense_is_refused(data):
    with pytest.raises(Mistake, match="set the other to null"):
        halt(limit=2.0)
    with pytest.raises(Mistake, match="set the other to null"):
        halt(quantile=None)
    with pytest.raises(Mistake, match=r"filter\.scale must be positive"):
        halt(scale=[1.0, 0.0])
    with pytest.raises(Mistake, match=r"set filter\.absorbing=false"):
        halt(data, absorbing=True, discount=1.0)
    with pytest.raises(RuntimeError, match="call prepare"):
        judged(halt(), proposal(0.5))
    obs = data.transitions.obs.clone()
    obs[3] = torch.inf
    with pytest.raises(Mistake, match="not finite, so it sets no limit"):
        halt(replace(data, transitions=replace(data.transitions, obs=obs)))
