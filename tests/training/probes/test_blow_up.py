"""Bounds of values by hand, and what runs that blow up say at their end."""

import json
import math
from functools import partial

import numpy as np
import pytest
from rich.console import Console

import reverie
from reverie.agents.sac import SAC
from reverie.datasets.options import load
from reverie.training.mixing import mix
from reverie.training.probes.blow_up import FAR, LOSS, MARGIN, alarm, attainable, judge

ROWS = 40
SMALL = dict(
    batch_size=16,
    log_every=20,
    threads=1,
    probe_starts=0,
    evaluate={"every": 0},
    updates=60,
    verdict={"starts": 0},  # which has alarms of its own
)
QUIET = Console(quiet=True)


def recording(rewards, steps=10, terminated=False):
    """Episodes of `steps` rows, without an environment."""
    rng = np.random.default_rng(0)
    rewards = np.resize(np.asarray(rewards, float), ROWS)
    columns = {
        "observations": rng.normal(size=(ROWS, 3)),
        "actions": rng.uniform(-1, 1, (ROWS, 2)),
        "rewards": rewards,
        "terminals": terminated & (np.arange(ROWS) % steps == steps - 1),
        "timeouts": (not terminated) & (np.arange(ROWS) % steps == steps - 1),
    }
    return load(columns, name="toy")


def judged(data, agent, **ends):
    mixture, _ = mix(data, seeds=1, batch_size=4)
    series = {name: {0: ([10, 20], [0.0, value])} for name, value in ends.items()}
    return judge(series, data, mixture, agent)


@pytest.mark.parametrize(
    ("rewards", "discount", "expected"),
    [
        ([0.0, 1.0], 0.9, (10.0, 10.0)),
        ([1.0], 0.5, (2.0, 2.0)),
        ([0.0, 1.0], 1.0, (9.0, 9.0)),  # the longest episode, of rows with a known successor
        ([-3.0, -1.0], 0.9, (-10.0, 30.0)),  # no episode ends, so that costs are paid for ever
        ([-16.0, 0.0], 0.9, (0.0, 160.0)),
    ],
)
def test_what_is_attainable_follows_from_rewards_and_discount(
    make_sac, rewards, discount, expected
):
    data = recording(rewards)
    agent = make_sac(data.spec, discount=discount, entropy_in_target=False)
    mixture, _ = mix(data, seeds=1, batch_size=4)
    assert attainable(data, mixture, agent) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metric", "value", "alarmed"),
    [
        ("value", 10.0, False),
        ("value", 10.0 + MARGIN * 10 - 0.01, False),
        ("value", 10.0 + MARGIN * 10 + 0.01, True),
        ("state_value", 12.0, True),
        ("value", -500.0, False),  # whatever penalties and conservatism take
        ("value", -FAR * 11 - 1, True),
        ("critic_loss", 1e4, False),
        ("critic_loss", 1e17, True),
        ("actor_loss", -1e17, True),
        ("discriminator_loss_sa", 1e17, True),
        ("weight", 1e17, False),
    ],
)
def test_values_and_losses_beyond_their_bounds_raise_an_alarm(make_sac, metric, value, alarmed):
    data = recording([0.0, 1.0])
    agent = make_sac(data.spec, discount=0.9, entropy_in_target=False)
    found = judged(data, agent, **{"value": 1.0, metric: value})
    assert found["alarm"] is alarmed and found["attainable"] == pytest.approx(10)
    said = alarm(found)
    assert len(said) == alarmed and all(metric in each and f"{value:.4g}" in each for each in said)
    json.dumps(found)


def test_costs_have_an_upper_bound_as_rewards_have(make_sac):
    data = recording([-3.0, -1.0])
    agent = make_sac(data.spec, discount=0.9, entropy_in_target=False)
    assert not judged(data, agent, value=-20.0)["alarm"]
    assert not judged(data, agent, value=-7.5)["alarm"]  # a tenth of 30 above -10
    found = judged(data, agent, value=-6.5)
    assert found["alarm"] and found["optimistic"]
    (said,) = alarm(found)
    assert said.startswith("the critics predict impossible values: value of seed 0 ended at -6")
    assert "raise updates" in said and "at most -7" in said
    assert not judged(data, agent, value=-6.5, critic_loss=1e17)["optimistic"]


def test_an_episode_that_ends_at_once_pays_its_costs_once(make_sac):
    data = recording([-3.0, -1.0], terminated=True)
    agent = make_sac(data.spec, discount=0.9, entropy_in_target=False)
    mixture, _ = mix(data, seeds=1, batch_size=4)
    assert attainable(data, mixture, agent) == pytest.approx((-1.0, 30.0))
    assert not judged(data, agent, value=-1.0)["alarm"]
    assert judged(data, agent, value=2.5)["alarm"]  # nobody is paid
    endless, _ = mix(recording([-3.0, -1.0]), seeds=1, batch_size=4)
    assert attainable(recording([-3.0, -1.0]), endless, agent)[0] == pytest.approx(-10.0)
    # A model that ends what no recorded row did.
    assert attainable(recording([-3.0, -1.0]), mixture, agent)[0] == pytest.approx(-1.0)


def test_entropy_counts_where_it_is_part_of_the_values(make_sac):
    data = recording([0.0, 1.0])
    soft = make_sac(data.spec, discount=0.9, initial_temperature=2.0, max_temperature=None)
    assert soft.reward_bounds(0.0, 1.0) == pytest.approx((0.0, 1 + 2 * 2 * math.log(2)))
    assert not judged(data, soft, value=30.0)["alarm"] and judged(data, soft, value=60.0)["alarm"]


def test_rewards_that_were_met_in_training_count(make_sac):
    data = recording([0.0, 1.0])
    better = recording([0.0, 5.0])
    agent = make_sac(data.spec, discount=0.9, entropy_in_target=False)
    mixture, _ = mix(better, seeds=1, batch_size=4)
    series = {"value": {0: ([10], [40.0])}}
    assert not judge(series, data, mixture, agent)["alarm"]
    assert judged(data, agent, value=40.0)["alarm"]


def test_an_agent_without_critics_is_judged_by_its_losses_alone(make_sac):
    data = recording([0.0, 1.0])
    found = judged(data, make_sac(data.spec), actor_loss=2 * LOSS - 1)
    assert found == {"attainable": None, "beyond": [], "optimistic": False, "alarm": False}
    assert judged(data, make_sac(data.spec), actor_loss=2 * LOSS + 1)["alarm"]


@pytest.mark.parametrize("algorithm", ["td3_bc", "bc"])
def test_a_run_that_blows_up_finishes_with_an_alarm_and_a_sound_one_without(algorithm, tmp_path):
    rates = ["learning_rate"] if algorithm == "bc" else ["critic_learning_rate"]
    rates += [] if algorithm == "bc" else ["actor_learning_rate"]
    for rate, alarmed in ((1e3, True), (1e-3, False)):
        changes = {f"agent.{name}": rate for name in rates} | {"agent.hidden": [32, 32]}
        run = reverie.make(
            f"algorithm={algorithm}", dataset=recording([-1.0, 0.5]), **SMALL, **changes
        )
        directory = tmp_path / str(rate)
        summary = run.train(directory, console=QUIET).summary
        kept = json.loads((directory / "summary.json").read_text())
        assert summary["blow_up"]["alarm"] is kept["blow_up"]["alarm"] is alarmed
        assert len(kept["alarms"]) == alarmed
        assert all(each.startswith("the run has blown up: ") for each in kept["alarms"])


class Overestimating(SAC):
    """Whose critics say more than anybody can earn, while every loss is small."""

    def update(self, batch):
        return super().update(batch) | {"value": batch.reward.mean(1) + 1e4}


def test_a_critic_above_anything_attainable_is_said_at_the_end(tmp_path):
    run = reverie.make(
        "algorithm=sac", agent=partial(Overestimating), dataset=recording([0, 1]), **SMALL
    )
    (said,) = run.train(tmp_path / "run", console=QUIET).summary["alarms"]
    assert "value of seed 0 ended at 1e+04" in said and "the rewards allow at most" in said


def test_critics_that_forget_costs_are_said_at_the_end():
    """Sixty updates do not bring critics down from zero to where all rewards are costs."""
    costs = np.random.default_rng(0).uniform(0, 2, ROWS) - 3
    run = reverie.make("algorithm=td3_bc", dataset=recording(costs), **SMALL)
    summary = run.train(console=QUIET).summary
    assert summary["blow_up"]["optimistic"] and summary["blow_up"]["attainable"] < -50
    assert "the critics predict impossible values" in summary["alarms"][0]
    paid = reverie.make("algorithm=td3_bc", dataset=recording(costs + 3), **SMALL)
    assert paid.train(console=QUIET).summary["alarms"] == []
