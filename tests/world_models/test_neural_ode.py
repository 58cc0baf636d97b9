"""Neural differential equations as members of an ensemble."""

from dataclasses import replace

import pytest
import torch

from reverie.mistake import Mistake
from reverie.world_models import diagnostics
from reverie.world_models.neural_ode import NeuralODE
from tests.world_models.conftest import SMALL, SPEC, dataset

SOLVED = {
    "solver": "rk4",
    "substeps": 1,
    "tolerance": 1e-6,
    "local_regularisation": 0.0,
    "local_first_stage": True,
    "local_half_life": None,
}


def neural_ode(**changes) -> NeuralODE:
    return NeuralODE(**(SMALL | SOLVED | changes))


def irregular(rows: int = 600, seed: int = 0):
    """ds/dt = (s_2, a - s_1) per second, over durations from 0.02 to 0.5 s; reward -|s|^2."""
    data = dataset(episodes=rows // 50, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    dt = 0.02 + 0.48 * torch.rand(rows, generator=generator).square()
    here = data.transitions
    # The exact turn about (a, 0).
    centre = torch.cat([here.action, torch.zeros_like(here.action)], -1)
    away = here.obs - centre
    cos, sin = dt.cos(), dt.sin()
    turned = torch.stack(
        [cos * away[:, 0] + sin * away[:, 1], cos * away[:, 1] - sin * away[:, 0]], -1
    )
    return replace(data, transitions=replace(here, next_obs=centre + turned), dt=dt)


def fitted(data, **changes) -> NeuralODE:
    model = neural_ode(**changes)
    model.fit(data)
    return model


def linear_field(model: NeuralODE) -> None:
    """Put ds/dt = (s_2, -s_1) in place of the members, by hand."""

    def network(inputs, dropout=0.0, masks=()):
        state = inputs[..., :2]
        slope = torch.stack([state[..., 1], -state[..., 0]], -1)
        return torch.cat([slope, inputs.new_zeros(*inputs.shape[:-1], 4)], -1)

    model.gaussians.network.forward = network
    model.ready = True


def test_the_change_is_the_integral_of_the_field_over_each_duration():
    model = neural_ode(substeps=4)
    linear_field(model)
    state = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    inputs = torch.cat([state, torch.zeros(2, 1), torch.tensor([[0.5], [1.5]])], -1)
    mean, _ = model.gaussians(inputs[None, None])
    for row, t in enumerate((torch.tensor(0.5), torch.tensor(1.5))):
        x, v = state[row]
        turned = torch.stack([t.cos() * x + t.sin() * v, t.cos() * v - t.sin() * x])
        assert torch.allclose(state[row] + mean[0, 0, row, :2], turned, atol=1e-3)


def test_adaptive_steps_and_fixed_ones_agree_on_a_smooth_field():
    pytest.importorskip("torchdiffeq")
    torch.manual_seed(0)
    model = neural_ode(substeps=4)
    adaptive = neural_ode(solver="dopri5")
    adaptive.load_state_dict(model.state_dict())
    inputs = torch.randn(1, 1, 5, 4)
    inputs[..., 3] = inputs[..., 3].abs()
    assert torch.allclose(model.gaussians(inputs)[0], adaptive.gaussians(inputs)[0], atol=1e-4)


def test_without_durations_every_step_is_nominal():
    torch.manual_seed(0)
    model = neural_ode()
    model.ready = True
    inputs = torch.randn(1, 1, 5, 3)
    ones = torch.cat([inputs, torch.ones(1, 1, 5, 1)], -1)
    for short, long in zip(model.gaussians(inputs), model.gaussians(ones), strict=True):
        assert torch.equal(short, long)


def test_recorded_durations_count_within_lasting_alone():
    data = irregular()
    model = fitted(data)
    rows = data.transitions[:4]
    obs, action = rows.obs.unsqueeze(0), rows.action.unsqueeze(0)
    nominal = model.predict(obs, action)[0]
    assert model.nominal.item() == pytest.approx(data.nominal_dt)
    with model.lasting(torch.full((4,), data.nominal_dt)):
        assert torch.allclose(model.predict(obs, action)[0], nominal, atol=1e-6)
    with model.lasting(torch.full((4,), 1e-6)):
        still = model.predict(obs, action)[0][..., :2]
    assert torch.allclose(still, obs.unsqueeze(1).expand_as(still), atol=1e-4)
    assert torch.equal(model.predict(obs, action)[0], nominal)


def test_knowing_the_durations_predicts_better_than_ignoring_them():
    data, other = irregular(), irregular(300, seed=1)
    settings = {"max_epochs": 12, "hidden": [16], "weight_decay": [0.0, 0.0], "learning_rate": 1e-2}
    knows = fitted(data, **settings)
    ignores = fitted(replace(data, dt=None), **settings)
    error = [
        diagnostics.measure(model, seen, episodes=torch.arange(6))["one_step"]["rmse_median"][0]
        for model, seen in ((knows, other), (ignores, replace(other, dt=None)))
    ]
    assert error[0] < 0.5 * error[1]


def test_each_seed_has_durations_of_its_own():
    model = neural_ode(seeds=2)
    model.ready = True
    obs, action = torch.randn(2, 3, 2), torch.randn(2, 3, 1)
    dt = torch.tensor([[0.5, 1.0, 2.0], [0.1, 0.2, 0.3]])
    with model.lasting(dt):
        both = model.predict(obs, action)[0]
    with model.lasting(dt[:, :1]):
        first = model.predict(obs[:, :1], action[:, :1])[0]
    assert torch.allclose(both[:, :, :1], first, atol=1e-6)


def test_exogenous_columns_stand_still():
    spec = replace(SPEC, exogenous=(1,))
    model = neural_ode(spec=spec)
    model.ready = True
    obs, action = torch.randn(1, 6, 2), torch.randn(1, 6, 1)
    mean, _ = model.predict(obs, action)
    assert torch.equal(mean[..., 1], obs[..., 1].unsqueeze(1).expand_as(mean[..., 1]))


def test_the_local_error_changes_the_fit_and_its_weight_halves():
    data = irregular(200)
    few = {"max_epochs": 1}
    plain, smooth = fitted(data, **few), fitted(data, **few, local_regularisation=1.0)
    weights = [model.gaussians.network.state_dict() for model in (plain, smooth)]
    assert not all(torch.equal(a, b) for a, b in zip(*map(dict.values, weights), strict=True))

    model = neural_ode(local_regularisation=1e7, local_half_life=1.0)
    rows, weight = torch.randn(1, 3, 5, 7), torch.ones(5)
    rows[..., 3] = rows[..., 3].abs()
    without = super(type(model.gaussians), model.gaussians).loss(rows, weight)
    added = []
    for _ in range(2):
        torch.manual_seed(0)
        added.append(model.gaussians.loss(rows, weight) - without)
    assert added[0] > 0
    assert added[1] == pytest.approx(added[0].item() / 2, rel=1e-2)


def test_the_published_gradient_is_a_choice_that_counts_where_the_local_error_does():
    weighted = {"local_regularisation": 1.0}
    ours, published = (neural_ode(**weighted, local_first_stage=whole) for whole in (True, False))
    assert ours.signature() != published.signature()
    assert neural_ode(local_first_stage=False).signature() == neural_ode().signature()
    rows, gradients = torch.randn(1, 3, 5, 7).abs(), []
    for model in (ours, published):
        model.gaussians.load_state_dict(ours.gaussians.state_dict())
        model.gaussians.requires_grad_(True)
        torch.manual_seed(0)
        loss = model.gaussians.loss(rows, torch.ones(5)).sum()
        weight = next(model.gaussians.network.parameters())
        gradients.append((loss.item(), torch.autograd.grad(loss, weight)[0]))
    (one, whole), (other, later) = gradients
    assert one == other and not torch.allclose(whole, later)


def test_the_same_seed_gives_the_same_bits():
    data = irregular(200)
    settings = {"local_regularisation": 1.0, "max_epochs": 1}
    first, second = (fitted(data, **settings).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_dropout_is_refused():
    with pytest.raises(Mistake, match="dropout"):
        neural_ode(dropout=0.1)
