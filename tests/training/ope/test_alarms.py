"""What finished runs warn of: numbers by hand, causes, settings, and silence over good policies."""

import copy
import json
import re
from functools import partial

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from rich.console import Console

import reverie
from reverie.agents.losses import settled_share
from reverie.agents.sac import SAC
from reverie.datasets.options import load
from reverie.training.launch.hyperparameters import compose_run
from reverie.training.ope.alarms import EXCESS, alarms, excess, falls_short, is_worse, unjudged
from reverie.training.ope.conclusions import conclude
from reverie.training.ope.expectations import expectations
from reverie.training.results.shape import complaint_of_verdict

QUIET = Console(quiet=True)
RECORDED = 20.0


def interval(value, half=1.0):
    return [value, value - half, value + half]


def verdict(fqe, model=None, seeds=1, critics=None, remaining=0.0, returned=None, **changes):
    """A verdict whose policies are worth so much, where 20 was recorded, of -100 to 100."""
    measured = {"diverged": False, "broken": [0.0] * seeds, "beyond": [0.0] * seeds}
    measured |= {"converged": [remaining <= 0.05] * seeds, "remaining": [remaining] * seeds}
    bias = {"bias": [[0.0, 0.0, 0.0]] * seeds, "broken": [0.0] * seeds}

    def told(value):
        if value is None:
            return None
        values, returns = [interval(value)] * seeds, [interval(returned or value)] * seeds
        difference = [interval(value - RECORDED)] * seeds
        return measured | {
            "value": values,
            "difference": difference,
            "return": returns,
            "recorded": bias,
        }

    found = {
        "seeds": seeds,
        "starts": 64,
        "horizon": 50,
        "attainable": [-100.0, 100.0],
        "recorded": {"value": interval(RECORDED), "return": interval(RECORDED)},
        "actions": {"beyond": [0.3] * seeds, "recorded_beyond": 0.1},
        "fqe": told(fqe),
        "model": told(model),
        "critics": critics,
    } | changes
    return found | conclude(found, 0.5)


def believed(value, bonus=0.0, settled=1.0, seeds=1):
    return {"value": [interval(value)] * seeds, "bonus": [bonus] * seeds, "settled": settled}


def test_good_policies_raise_nothing():
    assert alarms(None) == []
    assert alarms(verdict(30.0, 31.0, critics=believed(32.0))) == []
    assert alarms(verdict(30.0, critics=believed(5.0))) == []  # penalties keep critics low
    # A gain that the model sees and fitted Q evaluation cannot tell.
    assert alarms(verdict(20.5, 30.0)) == []


def test_a_policy_worse_than_the_data_is_an_alarm_with_its_numbers_and_the_setting_to_try():
    (said,) = alarms(verdict(5.0, 6.0), real_share=0.05)
    assert said == (
        "the policy is worse than what was recorded: fitted Q evaluation 5 (recorded 20), the "
        "model rollouts 6 (recorded 20), a return of 50 steps in the model 6 (recorded 20); do "
        "not deploy, likely its actions leave the data: try more recorded rows in a batch "
        "(real_ratio, 0.05 now), a higher filter.penalty, or a lower source.horizon"
    )
    (said,) = alarms(verdict(5.0))
    assert "try algorithm=td3_bc, with it a lower agent.alpha" in said
    near = {"beyond": [0.05], "recorded_beyond": 0.1}
    (said,) = alarms(verdict(5.0, actions=near))
    assert "copies what was recorded" in said
    # Each of these is a setting of the method that stands before it.
    held = re.findall(r"(\w+): a (?:higher|lower) (agent\.\w+)", said)
    assert [method for method, _ in held] == ["td3_bc", "mopo_bc", "rebrac"]
    for method, key in held:
        assert OmegaConf.select(compose_run([f"algorithm={method}"]), key)
    short = alarms(verdict(5.0, critics=believed(1.0, settled=0.1)))
    assert "too few updates, since the critics had time for 10% of the way" in short[0]


def test_a_fit_that_is_not_converged_is_sure_where_what_is_left_is_less_than_the_loss():
    assert verdict(5.0, remaining=0.1)["outcome"] == ["none"]
    assert is_worse(verdict(5.0, remaining=0.1), 0)  # 14 below, 2 of 20 left to move
    assert not is_worse(verdict(5.0, remaining=0.8), 0)
    far = {"beyond": [0.9], "recorded_beyond": 0.1}
    gains = verdict(5.0, 30.0, remaining=0.1, actions=far)  # in the model
    assert gains["outcome"] == ["unclear"] and not is_worse(gains, 0)


def test_a_point_estimate_below_the_data_is_not_shown_to_be_better():
    for found in (verdict(19.5), verdict(20.5, 20.5, returned=19.0)):
        assert found["outcome"] == ["unclear"] and falls_short(found, 0)
        (said,) = alarms(found)
        assert said.startswith("not shown to be better than what was recorded: fitted Q evaluation")
    assert not falls_short(verdict(20.5), 0) and alarms(verdict(20.5)) == []
    # Fitted Q evaluation is sure of a gain, and only its far actions keep it from `better`.
    far = {"beyond": [0.9], "recorded_beyond": 0.1}
    for remaining, short in ((0.0, False), (0.5, True)):
        found = verdict(30.0, 19.5, actions=far, remaining=remaining)
        assert found["outcome"] == ["unclear"] and falls_short(found, 0) is short


def test_a_clone_that_is_not_shown_to_be_better_says_that_it_is_one():
    near = {"beyond": [0.1], "recorded_beyond": 0.1}
    early = verdict(20.5, remaining=0.5, actions=near)
    for found in (verdict(20.5), verdict(19.5), early, verdict(None)):
        (said,) = alarms(found, clones=True)
        assert said.startswith("not shown to be better than what was recorded: ")
        assert "a clone earns about as much" in said and "algorithm=td3_bc" in said
    assert alarms(verdict(30.0), clones=True) == []
    far = {"beyond": [0.9], "recorded_beyond": 0.1}
    assert alarms(verdict(30.0, actions=far), clones=True) == []  # sure of a gain


def test_a_policy_that_nothing_judges_and_that_leaves_the_data_says_so():
    found = verdict(25.0, remaining=0.5)
    assert found["outcome"] == ["none"] and unjudged(found, 0)
    (said,) = alarms(found)
    assert "no estimate is fit for use, and in 30 % of the recorded states" in said
    assert "python -m training.ope run=... fqe.updates=20000" in said
    near = {"beyond": [0.1], "recorded_beyond": 0.1}
    assert alarms(verdict(25.0, remaining=0.5, actions=near)) == []
    assert alarms(verdict(40.0, remaining=0.1)) == []  # 19 above, 4 left to move
    assert len(alarms(verdict(None))) == 1


def test_a_policy_that_nothing_judges_and_whose_critics_are_early_says_so():
    near = {"beyond": [0.1], "recorded_beyond": 0.1}
    early = partial(verdict, remaining=0.5, actions=near)
    found = early(25.0, critics=believed(1.0, settled=0.14))
    assert found["outcome"] == ["none"] and unjudged(found, 0)
    (said,) = alarms(found)
    assert "no estimate is fit for use, and the critics had time for 14% of the way" in said
    assert "try more updates, or a higher agent.tau" in said
    assert alarms(early(25.0, critics=believed(1.0, settled=0.6))) == []
    # Fitted Q evaluation that has not converged was seen to promise twice what was recorded of a
    # policy that earned nothing.
    assert unjudged(early(60.0, critics=believed(1.0, settled=0.14)), 0)


def test_critics_that_expect_what_no_estimate_gives_are_told_with_their_bonus():
    found = verdict(-3.0, -4.0, critics=believed(60.0, bonus=50.0))
    worse, said = alarms(found)
    assert said == (
        "the critics expect 60 from the start states, and no estimate gives that: fitted Q "
        "evaluation -3 (recorded 20), the model rollouts -4 (recorded 20), a return of 50 steps "
        "in the model -4 (recorded 20); likely the temperature is too high for so many updates, "
        "since of the 60 that the critics expect 50 is a bonus for noise: try a lower "
        "agent.initial_temperature, a higher agent.temperature_learning_rate, or more updates"
    )
    assert worse.startswith("the policy is worse")
    assert len(alarms(found, critics=False)) == 1


def test_critics_are_held_to_what_they_had_time_for():
    above = EXCESS * 200  # of what the rewards allow, beyond the upper end of the estimate
    good = partial(verdict, 30.0)
    assert excess(good(critics=believed(32 + above)), 0) is None
    assert excess(good(critics=believed(32.1 + above)), 0) == pytest.approx(above + 0.1)
    # Costs: they start at zero, and have come down a tenth of the way to -89.
    costs = partial(verdict, -90.0)
    assert excess(costs(critics=believed(-9.0, settled=0.1)), 0) is None
    assert excess(costs(critics=believed(-9.0, settled=1.0)), 0) == pytest.approx(79)
    assert excess(good(critics=None), 0) is None
    assert excess(verdict(None, critics=believed(99.0)), 0) is None


def test_seeds_share_lines_and_each_has_two_at_most():
    seeds = 4
    found = verdict(5.0, 6.0, seeds=seeds, critics=believed(70.0, seeds=seeds))
    found["fqe"]["value"] = [interval(4.0 + seed) for seed in range(seeds)]
    said = alarms(found)
    assert len(said) == 2 and all(each.endswith(" (seeds 0, 1, 2, 3)") for each in said)
    assert "fitted Q evaluation 4 to 7 (recorded 20)" in said[0]


def test_the_share_that_targets_lose_of_an_error():
    assert settled_share(1, 0.5, 0.9) == pytest.approx(0.05)
    assert settled_share(10_000, 0.01, 0.99) == pytest.approx(1 - np.exp(-1), rel=1e-3)
    assert settled_share(5, 0.1, 1.0) == 0


def recording():
    rng = np.random.default_rng(0)
    rows = 400
    columns = {
        "observations": rng.normal(size=(rows, 2)),
        "next_observations": rng.normal(size=(rows, 2)),
        "actions": rng.uniform(-1, 1, (rows, 1)).astype(np.float32),
        "rewards": rng.uniform(0, 1, rows),
        "terminals": np.zeros(rows, bool),
        "timeouts": np.arange(rows) % 20 == 19,
    }
    return load(columns, name="toy")


def test_an_agent_tells_what_its_critics_expect_and_what_of_it_is_a_bonus(make_sac):
    data = recording()
    agent = make_sac(data.spec, seeds=2, discount=0.9, initial_temperature=0.5, tau=0.1)
    starts = data.transitions.obs[data.first_rows]
    found = expectations(agent, data, starts, updates=100)
    obs = starts.expand(2, -1, -1)
    values = agent.values(obs, agent.act(obs, deterministic=True)).amin(1).mean(1)
    assert [each[0] for each in found["value"]] == pytest.approx(values.tolist(), abs=1e-6)
    # A wide policy at the start: its entropy is near that of uniform actions, ln 2, or below.
    assert all(0 < bonus <= 10 * 0.5 * np.log(2) + 0.1 for bonus in found["bonus"])
    assert found["settled"] == pytest.approx(settled_share(100, 0.1, 0.9))
    hard = make_sac(data.spec, seeds=2, discount=0.9, entropy_in_target=False)
    assert expectations(hard, data, starts, updates=1)["bonus"] == [0, 0]
    with torch.no_grad():
        next(hard.critics.parameters()).fill_(torch.nan)
    assert expectations(hard, data, starts, updates=1) is None


@pytest.mark.parametrize(
    ("algorithm", "changes", "bonus"),
    [("bc", {}, None), ("td3_bc", {}, 0.0), ("iql", {"agent.reward_offset": -1.0}, 0.0)],
)
def test_other_agents_have_no_bonus_or_no_critics(algorithm, changes, bonus):
    data = recording()
    run = reverie.make(f"algorithm={algorithm}", dataset=data, updates=20, **changes)
    starts = data.transitions.obs[data.first_rows]
    found = expectations(run.agent, data, starts, updates=20)
    assert (found is None) if bonus is None else (found["bonus"] == [bonus])


class Inflated(SAC):
    """Whose critics say 80 more than they have learned; rewards allow 100 and pay 50."""

    def values(self, obs, action):
        return super().values(obs, action) + 80.0


@pytest.mark.slow
def test_a_run_with_inflated_critics_says_so_and_its_twin_does_not(tmp_path):
    small = dict(
        dataset=recording(),
        updates=100,
        batch_size=32,
        threads=1,
        probe_starts=0,
        evaluate={"every": 0},
        verdict={
            "fqe": {"updates": 100, "share": 1.0, "replicas": 2, "hidden": [32, 32]},
            "doubly_robust": {"updates": 0},
        },
    )
    said = {}
    for kind in (SAC, Inflated):
        run = reverie.make("algorithm=sac", agent=partial(kind, hidden=[32, 32]), **small)
        summary = run.train(tmp_path / kind.__name__, console=QUIET).summary
        said[kind] = [each for each in summary["alarms"] if "critics expect" in each]
        kept = json.loads((tmp_path / kind.__name__ / "summary.json").read_text())
        assert complaint_of_verdict(kept["verdict"], 1) is None
        spoiled = copy.deepcopy(kept["verdict"])
        spoiled["critics"]["bonus"] = []
        assert "its verdict.critics.bonus is" in complaint_of_verdict(spoiled, 1)
        del spoiled["critics"]  # of an older run
        assert complaint_of_verdict(spoiled, 1) is None
    assert said[SAC] == [] and len(said[Inflated]) == 1
