"""MOPO one setting at a time: what is changed, and how it is compared."""

from dataclasses import replace
from functools import reduce

import pytest

from reverie.benchmarks.claims import shipped
from reverie.benchmarks.claims.laptop_budget import diagnosis
from reverie.benchmarks.claims.laptop_budget.diagnosis import ANCHORED, FACTORS, PLAIN
from reverie.benchmarks.claims.laptop_budget.tasks import USUAL
from reverie.mistake import Mistake
from reverie.training.run_directory import flat

TINY = replace(diagnosis.QUICK, updates=4, evaluate=2, episodes=1)


def record(*returns, stopped=None):
    return {
        "returns": [[value - 10.0, value + 10.0] for value in returns],
        "alarms": ["one"],
        "seconds": {"fitting": 40.0, "training": 90.0},
        "stopped": stopped,
        "digest": "d",
        "cpu": "X",
    }


def joined(side):
    """The settings of all factors together."""

    def merge(one, other):
        parts = {
            key: {**one.get(key, {}), **value}
            for key, value in other.items()
            if key != "real_ratio"
        }
        return {**one, **other, **parts}

    return reduce(merge, (getattr(each, side) for each in FACTORS.values()), {})


def settings(method, changes):
    changes = diagnosis.as_diagnosed(method, changes)
    found = flat(shipped.build(method, USUAL["pendulum"], TINY, changes=changes).settings)
    return {key: value for key, value in found.items() if key != "name"}


@pytest.mark.slow
def test_the_factors_are_what_the_two_presets_differ_in():
    plain, anchored = settings(PLAIN, {}), settings(ANCHORED, {})
    assert settings(PLAIN, joined("mopo_bc")) == anchored != plain
    assert settings(ANCHORED, joined("mopo")) == plain


def test_what_is_shared_changes_something_known():
    groups = {key for arm in diagnosis.SHARED.values() for key in arm.changes}
    assert groups <= {"filter", "source", "agent", "world_model", "batch_size"}
    assert all(arm.of == ANCHORED for arm in diagnosis.SHARED.values())


def test_arms_of_td3_bc_change_its_rates_alone():
    plain = settings("td3_bc", {})
    both = settings("td3_bc", diagnosis.FASTER["td3_both"].changes)
    changed = {key for key in plain if plain[key] != both[key]}
    assert changed == {"agent.actor_learning_rate", "agent.critic_learning_rate", "agent.tau"}
    # What is compared has the same seeds.
    assert all(arm.seed == diagnosis.ARMS[arm.of].seed for arm in diagnosis.ARMS.values())
    gaps = diagnosis.claim_all(
        "hopper", {"td3_bc": record(0.0, 1.0, 2.0), "td3_both": record(9.0, 9.5, 10.0)}
    )
    assert [claim.text for claim in gaps] == ["hopper: TD3+BC with both of these"]
    assert "better" in gaps[0].measured


def test_arms_are_compared_with_the_preset_they_change_seed_by_seed():
    own = {
        PLAIN: record(0.0, 100.0, 200.0),
        ANCHORED: record(500.0, 600.0, 700.0),
        "add_anchor": record(51.0, 150.0, 249.0),
        "drop_anchor": record(400.0, 600.0, 900.0),
        "drop_norm": record(stopped="diverged"),
    }
    gaps = diagnosis.differences(own)
    assert set(gaps) == {"add_anchor", "drop_anchor"}
    assert gaps["add_anchor"].values == [51.0, 50.0, 49.0]
    assert diagnosis.matters(gaps["add_anchor"]) == "better"
    assert diagnosis.matters(gaps["drop_anchor"]) == "undecided"
    rows = {row[0]: row for row in diagnosis.tabulate("hopper", own)["rows"]}
    assert rows["add_anchor"][4] == "better"
    assert rows["drop_norm"][2:4] == ["stopped", "diverged"]
    claims = diagnosis.claim_all("hopper", own)
    assert "better" in claims[0].measured and "all of" in claims[0].text
    assert "added to MOPO 50 ± " in claims[1].measured
    assert "MOPO+BC without it" in claims[1].measured
    assert all(claim.holds is None for claim in claims)
    assert diagnosis.draw({"hopper": own}).axes[0].get_title() == "hopper"


def test_the_recorded_table_is_never_mixed_with_other_budgets(monkeypatch):
    monkeypatch.setattr("sys.argv", ["diagnosis", "--continue", "--quick"])
    with pytest.raises(Mistake, match="--continue adds to the table of four seeds"):
        diagnosis.main()


@pytest.mark.slow
def test_an_arm_is_trained_once_and_found_again(tmp_path):
    asked = [("pendulum", "add_real")]
    first = diagnosis.measure(asked, TINY, tmp_path, None)
    again = diagnosis.measure(asked, TINY, tmp_path, None)
    assert first.details["records"] == again.details["records"]
    (path,) = tmp_path.glob("pendulum-add_real-*.json")
    assert path.name.endswith(f"{first.details['records']['pendulum']['add_real']['digest']}.json")
