"""Returns in the model by hand, the limit, and what a finished run says of its alarms."""

import io
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from torch import nn

from reverie.training.probes.value_gap import ValueGap, alarms, limit
from reverie.training.results.summary import print_results
from reverie.world_models.base import Step


class Counting(nn.Module):
    """Seed s walks on by s + 1 a step and is paid where it stands; 6 ends, beyond 7 is nothing."""

    seeds = 2

    def begin(self, obs):
        return None

    def advance(self, obs, action, candidates=1, state=None):
        after = obs + torch.tensor([1.0, 2.0]).view(2, 1, 1)
        ended = after[..., 0] == 6
        after = torch.where(after > 7, torch.nan, after)
        return Step(after[None], obs[None, ..., 0], ended[None], torch.zeros(obs.shape[:-1]))


class Idle(nn.Module):
    seeds = 2
    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def act(self, obs, deterministic=False):
        assert deterministic
        return torch.zeros_like(obs)


def recording(starts, returns=(1.0, 5.0), steps=4, rewards=(0.0, 2.0), ended=False):
    obs, reward = torch.tensor(starts)[:, None], torch.tensor(rewards)
    terminated = torch.full(reward.shape, ended)
    return SimpleNamespace(
        transitions=SimpleNamespace(obs=obs, reward=reward, terminated=terminated),
        first_rows=torch.arange(len(starts)),
        episode_lengths=torch.tensor([steps] * len(starts)),
        returns=torch.tensor(returns),
        whole=torch.ones(len(returns), dtype=torch.bool),
    )


def gap_of(data, **changes):
    hyperparameters = {"starts": 2, "factor": 3.0} | changes
    return ValueGap(agent=Idle(), model=Counting(), data=data, **hyperparameters)  # type: ignore[arg-type]


def test_returns_end_at_terminations_and_leave_out_what_left_the_model():
    found = gap_of(recording([1.0, 4.0])).measure(None)
    # Seed 0: 1 + 2 + 3 + 4 in four steps; 4 + 5 up to the termination at 6.
    # Seed 1: 1, 3, 5, 7 would leave beyond 7; 4 up to the termination at 6.
    assert found["model/left"].tolist() == [0.0, 0.5]
    assert found["model/return"].tolist() == [9.5, 4.0]


def test_episodes_that_all_leave_have_no_return_and_raise_no_alarm():
    judged = gap_of(recording([7.0, 7.0])).judge()
    assert judged["model_return"] == [None, None] and judged["left"] == [1.0, 1.0]
    assert judged["alarm"] is False


def test_the_alarm_is_raised_above_the_limit():
    assert gap_of(recording([1.0, 4.0], (1.0, 3.1))).judge()["alarm"] is True  # 9.5 > 9.3
    assert gap_of(recording([1.0, 4.0], (1.0, 3.2))).judge()["alarm"] is False


def test_negative_returns_are_counted_from_the_worst():
    assert limit(torch.tensor([2.0, 10.0]), 3.0) == pytest.approx(30.0)
    assert limit(torch.tensor([-1000.0, -400.0]), 3.0) == pytest.approx(800.0)


def test_numbers_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"value_gap.factor=1"):
        gap_of(recording([1.0, 4.0]), factor=1.0)
    with pytest.raises(ValueError, match=r"value_gap.starts=-1"):
        gap_of(recording([1.0, 4.0]), starts=-1)


def test_no_policy_pays_less_than_the_least_cost_at_every_step():
    costs = dict(returns=(-900.0, -100.0), rewards=(-9.0, -1.0))
    gap = gap_of(recording([1.0, 4.0], **costs))
    assert gap.attainable == -4 and gap.limit == pytest.approx(-3.6)
    judged = gap.judge()  # the model pays 6.5
    assert judged["alarm"] and judged["attainable"] == -4
    (said,) = alarms({}, judged)
    assert "the least recorded cost at every step comes to -4: it may live off" in said
    ended = gap_of(recording([1.0, 4.0], **costs, ended=True))
    assert ended.attainable == -1 and ended.limit == pytest.approx(-0.9)
    free = gap_of(recording([1.0, 4.0], (-900.0, -100.0), rewards=(-9.0, 0.0)))
    assert free.attainable == free.limit == 0
    mixed = dict(returns=(-900.0, -100.0), rewards=(-9.0, 1.0))
    assert gap_of(recording([1.0, 4.0], **mixed)).limit == 1500
    assert gap_of(recording([1.0, 4.0], **mixed)).attainable is None
    close = dict(returns=(-900.0, -800.0), rewards=(-9.0, -1.0))
    assert gap_of(recording([1.0, 4.0], **close)).limit == -600


def test_alarms_are_printed_below_the_table(tmp_path):
    console = Console(file=io.StringIO(), width=200)
    data = {"name": "x", "behaviour": {"return_mean": 0.0, "return_best": 1.0}}
    summary = {"name": "mopo", "dataset": data, "seeds": 1, "result": {}, "seconds": {}}
    print_results(summary | {"alarms": ["it burns"]}, tmp_path, console)
    assert "warning: it burns\n" in console.file.getvalue()
    print_results(summary, tmp_path, console)  # of an older run
    assert console.file.getvalue().count("warning") == 1


def test_a_run_says_what_it_warns_of():
    gate = {"steps": 50, "median": None, "limit": 0.3, "alarm": True}
    gap = {"model_return": [None, 90.0], "best_recorded": 10.0, "limit": 30.0, "alarm": True}
    said = alarms({"open_loop": gate}, gap)
    assert "without bound after 50 steps" in said[0] and "90" in said[1] and "10" in said[1]
    assert alarms({"open_loop": gate | {"alarm": False}}, gap | {"alarm": False}) == []
    assert alarms({}, None) == alarms({"open_loop": None}, None) == []
