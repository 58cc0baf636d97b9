"""Options, presets and commands by name, as plain values or as what they build."""

import pytest
from hydra.errors import ConfigCompositionException

from reverie.envs.specs import Spec
from reverie.training.launch.make import compose_command, load_preset
from reverie.training.launch.options import build_option, load_option

SPEC = Spec(env_id=None, obs_dim=3, action_dim=1, action_low=(-2.0,), action_high=(2.0,))


def test_an_option_stands_with_what_it_builds_on():
    plain, whole = (load_option("dynamics_reward", name) for name in ("plain", "adversarial"))
    assert plain["restart_every"] is None and plain["game"]["noise_share"] == 0.0
    assert plain["game"] == {**whole["game"], "noise_share": 0.0}


def test_only_the_path_of_what_is_fitted_is_left_out():
    assert "path" not in load_option("world_model", "ensemble")
    assert load_option("sampler", "flow")["path"] == "linear"
    assert build_option("sampler", "flow", changes={"steps": 3}).steps == 3


def test_changes_below_a_mapping_leave_its_other_numbers():
    given = {"spec": SPEC, "seeds": 2, "updates": 1}
    changes = {"hidden": [8], "discriminators": {"hidden": [4], "noise": 0.0}}
    agent = build_option("agent", "h2o", changes=changes, **given)
    assert agent.discriminators.noise == 0.0
    assert (
        agent.discriminators.logit_bound
        == load_option("agent", "h2o")["discriminators"]["logit_bound"]
    )


def test_a_preset_changes_its_agent():
    preset, plain = load_preset("pgd"), load_option("agent", "td3_bc")
    assert preset["real_ratio"] == 0.0625
    assert preset["agent"]["_target_"] == plain["_target_"]
    assert (preset["agent"]["policy_delay"], plain["policy_delay"]) == (1, 2)


def test_a_command_has_the_numbers_of_its_file_and_those_that_are_set():
    settings, as_written = (
        compose_command("distil", degrees=[2], copies=1),
        compose_command("distil"),
    )
    assert (settings.copies, list(settings.degrees)) == (1, [2])
    assert settings.noise == as_written.noise and as_written.copies > 1
    with pytest.raises(ConfigCompositionException):
        compose_command("distil", copys=1)
