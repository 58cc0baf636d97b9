"""Piecewise linear members: their equations, their regions, and what a linear system gives."""

import pytest
import torch
from hydra.utils import instantiate

from reverie.mistake import Mistake
from reverie.training.launch.options import read_option
from reverie.world_models.copies import Copies
from reverie.world_models.linear_regions import describe_regions, in_words
from reverie.world_models.piecewise_linear import AlmostLinear, ShallowPLRNN
from tests.world_models.conftest import SPEC, dataset

SHARED = {
    "lead": (1, 2),
    "dims": (2, 1),
    "hidden_units": 2,
    "reward_hidden": [4],
    "log_variance_bounds": [-10.0, 0.5],
    "bound_coefficient": 0.01,
    "left_out": [],
}


def built(kind, seeds=1, **changes):
    settings = read_option(f"world_model/{kind}") | {
        "members": 3,
        "elites": 2,
        "max_epochs": 2,
        "termination": "none",
        "heldout_episodes": 0,
    }
    settings.pop("path")
    return instantiate(settings | changes)(spec=SPEC, seeds=seeds, seed=0)


def set_to(network, **values):
    with torch.no_grad():
        for name, value in values.items():
            network.get_parameter(name).copy_(torch.tensor(value))
    return network


def test_the_almost_linear_step_is_that_of_the_paper():
    """By hand, of one state: A z + W phi(z) + h + C a with the last of four units bent."""
    weight = [[0.0] * 4, [0.0] * 4, [1.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]]
    network = set_to(
        AlmostLinear(relu_units=1, **SHARED),
        diagonal=[0.5, 0.5, 0.5, 0.5],
        weight=weight,
        offset=[0.0, 0.0, 0.0, 1.0],
        of_action=[[3.0, 0.0, 0.0, 0.0]],
    )
    z = torch.tensor([[2.0, 4.0, -1.0, -1.0], [2.0, 4.0, -1.0, 1.0]])
    found = network.move(z.expand(1, 2, 2, 4), torch.ones(1, 2, 2, 1))
    # The third unit is not bent, though it is negative; the fourth is.
    wanted = torch.tensor([[1.0 - 1.0 + 3.0, 2.0, -0.5, 0.5], [3.0, 2.0 + 2.0, -0.5, 1.5]])
    torch.testing.assert_close(found[0, 0], wanted)
    assert network.pattern(z.expand(1, 2, 2, 4))[0, 1].tolist() == [[False], [True]]


def test_the_clipped_shallow_step_is_bounded_and_the_plain_one_is_not():
    far = 1e6 * torch.randn(1, 2, 50, 4)
    plain, clipped = (ShallowPLRNN(width=8, clipped=cut, **SHARED) for cut in (False, True))
    clipped.load_state_dict(plain.state_dict())
    assert plain.bend(far).abs().max() > 1e4
    limit = clipped.inner.bias.abs().sum(-1).max() * clipped.outer.abs().max()
    assert clipped.bend(far).abs().max() <= 1.1 * limit + 0.5  # rounding of 1e6
    z = torch.randn(1, 2, 50, 4)
    seen = z @ plain.inner.weight
    wanted = (seen + plain.inner.bias).clamp(min=0) @ plain.outer
    torch.testing.assert_close(plain.bend(z), wanted)
    torch.testing.assert_close(clipped.bend(z), wanted - seen.clamp(min=0) @ plain.outer)


def test_hidden_units_begin_with_the_observation():
    network = AlmostLinear(relu_units=1, **SHARED)
    network.normalise_by((torch.ones(3), 2 * torch.ones(3)), (torch.zeros(3), torch.ones(3)))
    obs = torch.randn(1, 2, 5, 2)
    torch.testing.assert_close(network.begin(obs), ((obs - 1) / 2) @ network.of_obs)


def test_regions_have_the_fixed_points_and_the_stability_that_algebra_tells():
    """x' = 0.5 x + 2 max(0, u), u' = 0.5 u + 1, y and v fade: below u = 0 all goes to u = 2."""
    network = set_to(
        AlmostLinear(relu_units=1, **SHARED),
        diagonal=[0.5] * 4,
        weight=[[0.0] * 4, [0.0] * 4, [0.0] * 4, [2.0, 0.0, 0.0, 0.0]],
        offset=[0.0, 0.0, 0.0, 1.0],
    ).requires_grad_(False)
    network.normalise_by(
        (torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 1.0, 1.0])),
        (torch.zeros(3), torch.ones(3)),
    )
    z = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    found = describe_regions(network, Copies(SPEC), SPEC, (0, 1), z)
    assert found["visited"] == 2 and sum(r["share"] for r in found["regions"]) == pytest.approx(1)
    by = {region["pattern"]: region for region in found["regions"]}
    assert all(region["spectral_radius"] == pytest.approx(0.5) for region in by.values())
    # x* = 2 * 2 / 0.5 = 8 standard deviations where u bends up; raw: 8 * 10 + 1.
    assert by["+"]["fixed_point"] == pytest.approx([81.0, 2.0]) and by["+"]["within"]
    assert by["-"]["fixed_point"] == pytest.approx([1.0, 2.0]) and not by["-"]["within"]
    assert by["-"]["share"] == pytest.approx(float((z[:, 3] <= 0).float().mean()))
    words = in_words(found)
    assert "virtual fixed point (1, 2), stable" in "\n".join(words)


@pytest.mark.slow
def test_a_linear_system_is_found_with_its_fixed_point_and_spectral_radius():
    """The toy data rotate slowly outwards: 1 +- 0.1 i, so 1.005, about the origin."""
    data = dataset(episodes=40, length=40)
    model = built("almost_linear", relu_units=0, hidden_units=0, learning_rate=1e-2, max_epochs=25)
    said = model.fit(data)["regions"][0]
    (region,) = said["regions"]
    assert said["visited"] == 1 and not region["stable"]
    assert region["spectral_radius"] == pytest.approx(1.005, abs=0.01)
    assert region["fixed_point"] == pytest.approx([0.0, 0.0], abs=0.3)


@pytest.mark.parametrize("kind", ["almost_linear", "shallow_plrnn"])
def test_a_rollout_is_the_free_run_of_the_cell(kind):
    """Expected steps of one member give what its equation gives, hidden units and all."""
    data = dataset(episodes=4, length=20)
    settings = {"members": 1, "elites": 1, "hidden_units": 3, "uncertainty": "max_aleatoric"}
    model = built(kind, **settings)
    model.fit(data)
    net = model.network
    obs, action = torch.randn(1, 5, 2), torch.rand(3, 1, 5, 1)
    scaled = (obs - net.input_mean[:2]) / net.input_std[:2]
    z = torch.cat([scaled, net.begin(obs.unsqueeze(1))[:, 0]], -1).unsqueeze(1)
    state, now = model.begin(obs), obs
    for each in action:
        step = model.expect(now, each, 1, state)
        now, state = step.next_obs[0], step.state[0]
        z = net.move(z, ((each - net.input_mean[2:]) / net.input_std[2:]).unsqueeze(1))
        wanted = z[:, 0, :, :2] * net.input_std[:2] + net.input_mean[:2]
        torch.testing.assert_close(now, wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(state, z[:, 0, :, 2:], rtol=1e-4, atol=1e-4)


def test_more_bent_units_than_units_are_refused():
    with pytest.raises(Mistake, match=r"world_model\.relu_units=9"):
        built("almost_linear", relu_units=9, hidden_units=2)
