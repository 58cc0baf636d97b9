"""Return conditioning: labels by hand, what the network does with them, and what it samples."""

from functools import partial

import numpy as np
import pytest
import torch

from reverie.datasets.build import build
from reverie.envs.specs import Spec
from reverie.world_models.diffusion.returns import ReturnCondition, ReturnGuidance
from reverie.world_models.diffusion.unet import ResidualMLP, TemporalUNet

CONDITION = dict(discount=0.5, dropout=0.25, at_time_limit="extrapolate")
ASKED = dict(target=0.8, strength=1.0, levels=[0.0, 100.0])
SPEC = Spec(env_id=None, obs_dim=1, action_dim=1, action_low=(-1.0,), action_high=(1.0,))


def recorded(reward, terminated, truncated):
    rows = len(reward)
    obs = np.linspace(-1, 1, rows + 1, dtype=np.float32)
    return build(
        name="rows", spec=SPEC, obs=obs[:-1, None], action=np.zeros((rows, 1), np.float32),
        reward=np.array(reward, np.float32), terminated=np.array(terminated, bool),
        truncated=np.array(truncated, bool), next_obs=obs[1:, None], reference=None, origin={},
        clip_actions=False,
    )  # fmt: skip


def condition(**changes):
    return ReturnCondition(**(CONDITION | changes))


def test_labels_are_discounted_rewards_per_step_and_ends_are_told_apart():
    data = recorded([1, 2, 4, 1, 3], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1])
    # Terminated: (1 - 1/2) (r_0 + r_1 / 2 + r_2 / 4), and nothing behind.
    ended = [0.5 * (1 + 1 + 1), 0.5 * (2 + 2), 0.5 * 4]
    # Cut by a limit: the same, divided by the weight of what was seen.
    expected = [*ended, (1 + 1.5) / 1.5, 3.0]
    torch.testing.assert_close(condition().discounted_means(data), torch.tensor(expected).double())
    stopped = [*ended, 0.5 * 2.5, 0.5 * 3]
    found = condition(at_time_limit="stop").discounted_means(data)
    torch.testing.assert_close(found, torch.tensor(stopped).double())


def test_labels_of_the_fitted_records_run_from_zero_to_one():
    data = recorded([1, 2, 4, 1, 3], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1])
    made, rows = condition(), torch.tensor([0, 1, 4])
    made.scale_by(data, rows)
    assert made.labels(data, rows).flatten().tolist() == pytest.approx([0.0, 1 / 3, 1.0])
    same = recorded([1.0] * 4, [0] * 4, [0, 0, 0, 1])
    with pytest.raises(ValueError, match="earn the same"):
        condition().scale_by(same, torch.arange(4))


def test_a_share_of_the_labels_is_dropped():
    dropped = condition(dropout=0.25).drop_some(torch.ones(20_000, 1))
    assert dropped.isnan().float().mean().item() == pytest.approx(0.25, abs=0.015)
    assert (dropped[~dropped.isnan()] == 1).all()


NETWORKS = [
    partial(TemporalUNet, event=(4, 3), width=16, blocks=2, groups=4, norm_over_time=False),
    partial(ResidualMLP, event=(3,), width=16, blocks=1, embedding=8, frequencies=2),
]


@pytest.mark.parametrize("network", NETWORKS)
def test_asking_for_nothing_is_a_network_without_a_condition(network):
    asked, plain = network(numbers=1), network()
    state = asked.state_dict()
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    x, label = torch.randn(6, *network.keywords["event"]), torch.randn(6)
    nothing = asked(x, label, torch.full((6, 1), torch.nan))
    torch.testing.assert_close(nothing, plain(x, label))
    some = asked(x, label, torch.tensor([[torch.nan], [1.0]]).repeat(3, 1))
    changed = (some - nothing).abs().flatten(1).amax(1) > 0
    assert changed.tolist() == [False, True] * 3 and not some.isnan().any()


def test_what_makes_no_sense_is_refused():
    for changes, message in (
        ({"discount": 1.0}, "discount must lie in"),
        ({"dropout": 0.0}, "dropout must lie in"),
        ({"at_time_limit": "guess"}, "use one of"),
    ):
        with pytest.raises(ValueError, match=message):
            condition(**changes)
    for changes, message in (({"strength": -1.0}, "strength"), ({"levels": [3.0, 1.0]}, "levels")):
        with pytest.raises(ValueError, match=message):
            ReturnGuidance(**(ASKED | changes))
