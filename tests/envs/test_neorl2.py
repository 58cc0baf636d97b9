"""Rules of NeoRL-2's tasks at numbers worked out by hand, and where they hold."""

import math
from dataclasses import replace

import pytest
import torch

from reverie.envs.benchmarks import rules_of
from reverie.envs.neorl2 import TASKS
from reverie.envs.reference import reference_for
from reverie.envs.rewards import reward_rule_for
from reverie.envs.specs import Spec
from reverie.envs.termination import rule_for_spec
from reverie.mistake import Mistake


def row(task, before=(), action=(), after=()):
    """`(obs, action, next_obs)` with given entries by column, zeros elsewhere."""
    known = TASKS[task]
    obs, next_obs = torch.zeros(2, len(known.obs_names))
    act = torch.zeros(len(known.action_names))
    for vector, entries in ((obs, before), (act, action), (next_obs, after)):
        for column, value in dict(entries).items():
            vector[column] = value
    return obs, act, next_obs


def spec_of(task, **changes):
    known = TASKS[task]
    width = len(known.action_names)
    plain = Spec(
        env_id=None,
        obs_dim=len(known.obs_names),
        action_dim=width,
        action_low=(-1.0,) * width,
        action_high=(1.0,) * width,
        task=f"neorl2/{task}",
    )
    return replace(plain, **changes)


def risk(glucose):
    return 10 * (1.509 * (math.log(glucose) ** 1.084 - 5.381)) ** 2


@pytest.mark.parametrize(
    ("task", "before", "action", "after", "expected"),
    [
        ("Pipeline", {}, {}, {0: 110, 1: 110}, 1.0),
        ("Pipeline", {}, {0: 1}, {0: 50, 1: 140}, 1.1**2 - 3),
        ("Simglucose", {0: 150}, {}, {0: 120}, 1 + (risk(150) - risk(120)) / 100),
        ("Simglucose", {0: 60}, {}, {0: 40}, -15.0),
        ("Simglucose", {0: 590}, {}, {0: 600}, 0.0),
        # Down from (0.3, 0.4) to (0, 0.5), engines at 1 and 0.5, then 0.6 to the side.
        ("RocketRecovery", {0: 0.3, 1: 0.4}, {0: 1, 1: 0.5}, {1: 0.5}, -0.3),
        ("RocketRecovery", {0: 0.3, 1: 0.4}, {0: 0, 1: -0.6}, {1: 0.5}, -0.018),
        ("RocketRecovery", {1: 1}, {0: 0.5}, {1: 1, 2: 0.3, 3: 0.4, 4: -0.2}, -70 - 0.225),
        ("RocketRecovery", {1: 1}, {0: 1}, {1: 0.05, 2: 0.4, 3: -1.9, 4: 0.2}, 100.0),
        ("RocketRecovery", {1: 1}, {0: 1}, {1: -0.05, 4: 0.3}, -100.0),
        ("RandomFrictionHopper", {0: 1}, {0: 1, 1: -1, 2: 0.5}, {0: 1.016}, 2 - 0.00225),
        ("DMSD", {}, {0: 1}, {0: 0.5, 1: -0.5, 4: 0.51, 5: 0.49}, -math.log(0.02)),
        ("Fusion", {9: 1.5, 10: 5, 11: 1}, {}, {6: 1.7, 7: 5.5, 8: 1.05}, 0.0),
        ("Fusion", {9: 1.5, 10: 5, 11: 1}, {}, {6: 1.5, 7: 6, 8: 1}, -math.log((4 / 3) ** 0.5)),
        ("SafetyHalfCheetah", {0: 2}, {0: 1, 5: -1}, {0: 2.15}, 3 - 0.2),
        ("SafetyHalfCheetah", {0: 2}, {}, {0: 2.17}, -100.0),
    ],
)
def test_a_step_pays_what_the_benchmark_says(task, before, action, after, expected):
    obs, act, next_obs = row(task, before, action, after)
    assert TASKS[task].reward(obs, act, next_obs).item() == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(
    ("task", "after", "expected"),
    [
        ("Pipeline", {0: 1e6}, False),
        ("Simglucose", {0: 40}, False),
        ("Simglucose", {0: 39.9}, True),
        ("Simglucose", {0: 600.1}, True),
        ("RocketRecovery", {1: 0.06}, False),
        ("RocketRecovery", {1: -0.05}, True),
        ("RandomFrictionHopper", {1: 1.2, 12: 2}, False),
        ("RandomFrictionHopper", {0: 500, 1: 1.2}, False),  # far, but on its feet
        ("RandomFrictionHopper", {1: 0.69}, True),
        ("RandomFrictionHopper", {1: 1.2, 2: -0.21}, True),
        ("RandomFrictionHopper", {1: 1.2, 5: -101}, True),
        ("SafetyHalfCheetah", {0: 100}, False),  # too fast is paid for, not ended
        ("Fusion", {6: math.nan}, True),
    ],
)
def test_a_step_ends_where_the_benchmark_says(task, after, expected):
    assert rule_for_spec(spec_of(task))(*row(task, after=after)).item() is expected


def test_scores_have_the_benchmarks_references():
    reference = reference_for("neorl2/DMSD")
    assert (reference.low, reference.high) == (30.60, 849.51)
    assert reference.normalise(440.055) == pytest.approx(50.0)
    assert reference_for("neorl2/pipeline") is None


def test_rules_see_the_newest_of_a_history_and_none_of_what_is_hidden():
    plain = spec_of("RocketRecovery")
    stacked = replace(plain, obs_dim=7 * 2 + 2, stacked_obs=2, stacked_actions=1)
    obs, action, next_obs = row("RocketRecovery", {1: 1}, {0: 1}, {1: 0.04})
    past = torch.full((9,), 7.0)
    long = torch.cat([obs, past]), action, torch.cat([next_obs, past])
    assert rule_for_spec(stacked)(*long).item()
    assert reward_rule_for(stacked)(*long) == reward_rule_for(plain)(obs, action, next_obs) == 100
    hidden = replace(plain, obs_dim=6, hidden=(6,))
    assert rule_for_spec(hidden) is None and reward_rule_for(hidden) is None
    assert rule_for_spec(replace(spec_of("DMSD"), obs_dim=5, hidden=(2,))) is not None  # never


def test_an_unknown_task_is_refused():
    with pytest.raises(Mistake, match="no rules of task 'neorl2/Piplne'"):
        rules_of("neorl2/Piplne")
    with pytest.raises(Mistake, match="cube-single-task6"):
        rules_of("ogbench/cube-single-task6")


def test_the_rules_of_ogbench_are_of_the_state_before_the_action():
    rules = rules_of("ogbench/pointmaze-medium-task1")
    there, away = torch.tensor([20.0, 20.5]), torch.tensor([10.0, 20.0])
    after, action = torch.stack([away, there, there * torch.nan]).unsqueeze(1), torch.zeros(3, 1, 2)
    assert rules.reward(there.expand_as(after), action, after).tolist() == [[0.0]] * 3
    assert rules.terminated(there.expand_as(after), action, after).all()
    assert rules.reward(away.expand_as(after), action, after).tolist() == [[-1.0]] * 3
    ended = rules.terminated(away.expand_as(after), action, after)
    assert ended.flatten().tolist() == [False, False, True]
