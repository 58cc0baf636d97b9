"""The critics' regularisers against singular values and worst cases that are known exactly."""

import copy
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
import yaml
from hydra.utils import get_class

from reverie.agents.networks import Critics
from reverie.agents.regularisers import AdversarialRobustness, Regulariser, SpectralNorm, endings
from reverie.envs.specs import Spec
from tests.cases import some

AGENTS = ("sac", "edac", "ravl", "td3_bc", "iql", "cql")
SPECTRAL, ADVERSARIAL = "spectral", "adversarial"


def regulariser(option, **changes):
    """What an agent is given: the class with the YAML's hyperparameters, less those changed."""
    settings = yaml.safe_load(Path(f"conf/regulariser/{option}.yaml").read_text())
    cls = get_class(settings.pop("_target_"))
    settings = {key: value for key, value in settings.items() if not key.startswith("_")}
    assert set(changes) <= {"ends", *settings}
    return partial(cls, **{"ends": None, **settings, **changes})


VARIANTS = {
    "cap": regulariser(SPECTRAL, cap=0.5),
    "normalise": regulariser(SPECTRAL, cap=1.0, normalise=True),
    "penalty": regulariser(SPECTRAL, cap=None, coefficient=0.1),
    "fgsm": regulariser(ADVERSARIAL),
    "pgd": regulariser(ADVERSARIAL, attack="pgd", radius=0.1, radius_updates=4),
    "uniform": regulariser(ADVERSARIAL, attack="uniform", norm="l2"),
}


def critics_of(*, seeds=2, critics=3, hidden=(8, 8)):
    return Critics(
        seeds=seeds,
        critics=critics,
        obs_dim=3,
        action_dim=2,
        hidden=hidden,
        activation="relu",
        normalise_obs=False,
    )


def test_norms_of_weights_that_layer_norm_makes_irrelevant_are_refused(make_agent):
    for option in ("sac", "td3_bc", "iql"):
        with pytest.raises(ValueError, match=r"set agent\.critic_layer_norm=false"):
            make_agent(option, critic_layer_norm=True, regulariser=VARIANTS["cap"])
        make_agent(option, critic_layer_norm=True, regulariser=VARIANTS["fgsm"])


def weights(critics):
    return [layer.weight for layer in critics.body.layers]


def exact(critics):
    """Largest singular value of every matrix, [layers, S, N]."""
    return torch.stack([torch.linalg.matrix_norm(w.detach(), 2) for w in weights(critics)])


def linear_critics(make_batch, rows=5):
    """Q_i(s, a) = w_i s + v_i a + b_i, a batch, and the slopes w [S, N, 3]."""
    critics, batch = critics_of(hidden=()), make_batch(2, rows)
    return critics, batch, weights(critics)[0].detach()[:, :, :3, 0]


# ---------------------------------------------------------------------------- spectral norm


def test_norms_are_the_singular_values_the_matrices_were_made_of():
    critics = critics_of(hidden=(8, 8))
    largest = torch.tensor([[3.0, 0.5, 20.0], [1.0, 7.0, 2.0]])
    with torch.no_grad():
        for weight in weights(critics):
            left, _, right = torch.linalg.svd(torch.randn_like(weight), full_matrices=False)
            values = 0.7 ** torch.arange(left.shape[-1])
            weight.copy_(largest[..., None, None] * left * values @ right)
    watcher = regulariser(SPECTRAL, cap=None, warmup=60)(critics=critics)
    for norm in watcher.norms(critics):
        torch.testing.assert_close(norm.detach(), largest, rtol=1e-4, atol=0)
    bound = watcher.project_(critics)["spectral_bound"]
    torch.testing.assert_close(bound, torch.tensor([20.0**3, 7.0**3]), rtol=1e-3, atol=0)


def test_the_vectors_follow_moving_weights_and_never_overestimate():
    critics = critics_of(hidden=(16, 16))
    watcher = regulariser(SPECTRAL, cap=None, warmup=1)(critics=critics)
    for _ in range(60):
        with torch.no_grad():
            for weight in weights(critics):
                weight.add_(1e-3 * torch.randn_like(weight))
        watcher.project_(critics)
        found = torch.stack([norm.detach() for norm in watcher.norms(critics)])
        assert (found <= exact(critics) * (1 + 1e-5)).all()
    torch.testing.assert_close(found, exact(critics), rtol=0.03, atol=0)


@pytest.mark.parametrize("power", [1, 2])
def test_the_penalty_is_the_sum_of_powers_and_its_gradient_that_of_the_exact_norm(
    make_batch, power
):
    critics = critics_of()
    part = regulariser(SPECTRAL, cap=None, coefficient=0.3, power=power, warmup=500)(
        critics=critics
    )
    penalty = part.penalty(critics, make_batch(2, 4), torch.zeros(2, 3, 4))
    reference = 0.3 * sum(
        torch.linalg.matrix_norm(w, 2).pow(power).sum(1) for w in weights(critics)
    )
    torch.testing.assert_close(penalty, reference)
    found = torch.autograd.grad(penalty.sum(), weights(critics))
    wanted = torch.autograd.grad(reference.sum(), weights(critics))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_a_cap_binds_and_projects_only_once():
    critics = critics_of(hidden=(16, 16))
    with torch.no_grad():
        for weight in weights(critics):
            weight.mul_(10)
    part = regulariser(SPECTRAL, cap=2.0, warmup=500)(critics=critics)
    torch.testing.assert_close(exact(critics), torch.full((3, 2, 3), 2.0), rtol=1e-4, atol=0)
    before = copy.deepcopy(critics)
    measured = part.project_(critics)
    for a, b in zip(weights(before), weights(critics), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(measured["spectral_bound"], torch.full((2,), 8.0))


def test_below_the_cap_nothing_changes_to_the_bit():
    critics = critics_of()
    with torch.no_grad():
        weights(critics)[1][1, 2] *= 100  # one critic of one seed is above it
    before = copy.deepcopy(critics)
    part = regulariser(SPECTRAL, cap=20.0)(critics=critics)
    changed = torch.stack(
        [(a != b).flatten(2).any(2) for a, b in zip(weights(before), weights(critics), strict=True)]
    )
    assert changed.nonzero().tolist() == [[1, 1, 2]]
    assert part.project_(critics)["spectral_capped"].shape == (2,)
    with torch.no_grad():
        weights(critics)[1][1, 2] *= 3
    assert part.project_(critics)["spectral_capped"].tolist() == pytest.approx([0.0, 1 / 9])


def test_hard_normalisation_gives_norm_one_also_to_small_matrices_and_leaves_zero_alone():
    critics = critics_of(hidden=(16, 16))
    with torch.no_grad():
        for scale, weight in zip((0.01, 3.0, 1.0), weights(critics), strict=True):
            weight.mul_(scale)
        weights(critics)[0][0, 0] = 0.0
    regulariser(SPECTRAL, cap=1.0, normalise=True, warmup=500)(critics=critics)
    norms = exact(critics)
    assert norms[0, 0, 0] == 0
    norms[0, 0, 0] = 1.0
    torch.testing.assert_close(norms, torch.ones(3, 2, 3), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("layers", "chosen"), [([0], {0}), ([-1, 1], {1, 2}), (None, {0, 1, 2})])
def test_only_the_chosen_layers_are_touched(make_batch, layers, chosen):
    critics = critics_of()
    before = copy.deepcopy(critics)
    part = regulariser(SPECTRAL, cap=0.01, coefficient=1.0, layers=layers)(critics=critics)
    pairs = zip(weights(before), weights(critics), strict=True)
    assert {i for i, (a, b) in enumerate(pairs) if not torch.equal(a, b)} == chosen
    penalty = part.penalty(critics, make_batch(2, 4), torch.zeros(2, 3, 4))
    slopes = torch.autograd.grad(penalty.sum(), weights(critics), materialize_grads=True)
    assert {i for i, slope in enumerate(slopes) if slope.any()} == chosen


def test_no_pair_of_states_differs_by_more_than_the_bound():
    critics = critics_of(hidden=(16, 16))
    part = regulariser(SPECTRAL, cap=0.8, warmup=500)(critics=critics)
    bound = part.project_(critics)["spectral_bound"]
    obs, action, other = torch.randn(2, 500, 3), torch.randn(2, 500, 2), torch.randn(2, 500, 3)
    with torch.no_grad():
        change = (critics(obs, action) - critics(other, action)).abs().amax(1)
    slope = (change / (obs - other).norm(dim=-1)).amax(1)
    assert (slope <= bound * (1 + 1e-4)).all() and (bound <= 0.8**3 * (1 + 1e-4)).all()


# ---------------------------------------------------------------------------- adversarial states


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
@pytest.mark.parametrize("slope", [True, False])
def test_the_worst_case_of_a_linear_critic_is_exact(make_batch, attack, norm, dual, slope):
    """max over |d|_p <= e of |w d| is e |w|_q with 1/p + 1/q = 1, in standardised units."""
    critics, batch, w = linear_critics(make_batch)
    obs = torch.randn(50, 3) * torch.tensor([0.1, 1.0, 30.0])
    hyperparameters = {"radius": 0.2, "coefficient": 0.7, "steps": 60, "step_size": 30.0}
    part = regulariser(ADVERSARIAL, attack=attack, norm=norm, slope=slope, **hyperparameters)(
        critics=critics
    )
    part.prepare(obs)
    penalty = part.penalty(critics, batch, critics(batch.obs, batch.action))
    worst = torch.linalg.vector_norm(w * obs.std(0, correction=0), dual, -1)
    if not slope:
        worst = 0.2 * worst
    torch.testing.assert_close(penalty, 0.7 * worst.square().sum(1), rtol=1e-3, atol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_moves_stay_in_the_ball_and_fall_short_of_the_worst(make_batch, norm):
    critics, batch, w = linear_critics(make_batch, rows=200)
    value = critics(batch.obs, batch.action).detach()
    found = {}
    for attack in ("fgsm", "pgd", "uniform"):
        part = regulariser(ADVERSARIAL, attack=attack, norm=norm, draws=20)(critics=critics)
        part.scale.copy_(torch.tensor([0.0, 1.0, 5.0]))
        moved = part.worst(critics, batch.obs, batch.action, value, torch.tensor(0.3))
        move = moved - batch.obs.unsqueeze(1)
        assert not moved.requires_grad and not move[..., 0].any()  # a constant dimension stays
        length = (move[..., 1:] / part.scale[1:]).norm(
            dim=-1, p=float("inf") if norm == "linf" else 2
        )
        assert (length <= 0.3 * (1 + 1e-4)).all() and (length > 0).all()
        found[attack] = (move * w.unsqueeze(2)).sum(-1).abs()
    assert (found["uniform"] <= found["fgsm"] * (1 + 1e-3)).all()
    # The best of twenty draws comes close; a single one would average about half of it.
    assert found["uniform"].mean() > 0.7 * found["fgsm"].mean()


def test_fgsm_takes_the_better_of_both_directions(make_batch):
    """Q = relu(s_0): where s_0 is just above 0, going down is cut off and going up is not."""
    critics, batch = critics_of(seeds=1, critics=1, hidden=(1,)), make_batch(1, 1)
    with torch.no_grad():
        for parameter in critics.parameters():
            parameter.zero_()
        weights(critics)[0][..., 0, 0] = 1.0
        weights(critics)[1].fill_(-1.0)
    batch.obs[..., 0] = 0.05
    part = regulariser(ADVERSARIAL, radius=0.2, slope=False, coefficient=1.0)(critics=critics)
    penalty = part.penalty(critics, batch, critics(batch.obs, batch.action))
    assert penalty.item() == pytest.approx(0.2**2, rel=1e-4)


def test_both_values_keep_their_gradient_and_the_move_has_none(make_batch):
    critics, batch = critics_of(), make_batch(2, 6)
    part = regulariser(ADVERSARIAL, radius=0.5, slope=False, coefficient=1.0)(critics=critics)
    prediction = critics(batch.obs, batch.action)
    moved = part.worst(critics, batch.obs, batch.action, prediction.detach(), torch.tensor(0.5))
    found = torch.autograd.grad(part.penalty(critics, batch, prediction).sum(), weights(critics))
    total = 0.0
    for seed in range(2):  # critic by critic, row by row
        for i in range(3):
            for row in range(6):
                here, there = (
                    critics(obs.expand(2, 1, 3), batch.action[seed, row].expand(2, 1, 2))[
                        seed, i, 0
                    ]
                    for obs in (batch.obs[seed, row], moved[seed, i, row])
                )
                total = total + (there - here).square() / 6
    for a, b in zip(found, torch.autograd.grad(total, weights(critics)), strict=True):
        torch.testing.assert_close(a, b)


def test_every_critic_gets_states_of_its_own():
    critics = critics_of()
    obs, action = torch.randn(2, 3, 4, 3), torch.randn(2, 4, 2)
    each = critics.each(obs, action)
    for i in range(3):
        torch.testing.assert_close(each[:, i], critics(obs[:, i], action)[:, i])


def test_the_radius_goes_linearly_from_start_to_end_and_stays(make_batch):
    critics, batch = critics_of(), make_batch(2, 4)
    part = regulariser(ADVERSARIAL, radius_start=0.1, radius=0.5, radius_updates=4)(critics=critics)
    seen = []
    for _ in range(7):
        seen.append(part.present_radius().item())
        part.penalty(critics, batch, critics(batch.obs, batch.action))
    assert seen == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5])
    at_once = regulariser(ADVERSARIAL, radius_start=0.1, radius=0.5)(critics=critics)
    assert at_once.present_radius().item() == 0.5


def test_rows_that_a_move_takes_across_a_termination_add_nothing(make_batch):
    """Q = w s, over where s_0 > 0: of two rows, one moves there in one of its two directions."""
    critics, batch, w = linear_critics(make_batch, rows=2)
    batch.obs[..., 0] = torch.tensor([-5.0, 0.05])

    def ends(obs, action):
        assert obs.shape[:-1] == action.shape[:-1] == (2, 3, 2)
        return obs[..., 0] > 0

    hyperparameters = {"radius": 0.1, "coefficient": 1.0, "ends": ends}
    part = regulariser(ADVERSARIAL, **hyperparameters)(critics=critics)
    found = part.penalty(critics, batch, critics(batch.obs, batch.action))
    prediction = critics(batch.obs, batch.action)
    moved = part.worst(critics, batch.obs, batch.action, prediction.detach(), part.present_radius())
    assert (moved[:, :, 0, 0] < 0).all()
    counts = torch.stack([torch.ones(2, 3), (moved[:, :, 1, 0] <= 0).float()], -1)  # [S, N, B]
    slope = w.abs().sum(-1, keepdim=True).square()
    torch.testing.assert_close(found, (slope * counts).mean(2).sum(1), rtol=1e-3, atol=0)
    everywhere = regulariser(ADVERSARIAL, **hyperparameters, spare_endings=False)(critics=critics)
    full = everywhere.penalty(critics, batch, critics(batch.obs, batch.action))
    torch.testing.assert_close(full, slope.sum((1, 2)), rtol=1e-3, atol=0)


def test_endings_see_the_states_of_the_task():
    hopper = Spec(
        env_id="Hopper-v5", obs_dim=11, action_dim=3, action_low=(-1.0,) * 3, action_high=(1.0,) * 3
    )
    upright, fallen = torch.zeros(2, 11)
    upright[0], fallen[0] = 1.25, 0.5
    states, action = torch.stack([upright, fallen]), torch.zeros(2, 3)
    ends, halved = endings(hopper), endings(hopper, lambda obs: obs / 2)
    assert ends(states, action).tolist() == [False, True]
    assert halved(2 * states, action).tolist() == [False, True]
    assert endings(replace(hopper, env_id="Unknown-v0")) is None


def test_a_radius_of_zero_punishes_nothing(make_batch):
    critics, batch = critics_of(), make_batch(2, 4)
    part = regulariser(ADVERSARIAL, radius_start=0.0, slope=False, radius_updates=2)(
        critics=critics
    )
    assert part.penalty(critics, batch, critics(batch.obs, batch.action)).tolist() == [0.0, 0.0]
    assert (part.penalty(critics, batch, critics(batch.obs, batch.action)) > 0).all()


# ---------------------------------------------------------------------------- in every agent


@pytest.mark.parametrize("option", AGENTS)
@pytest.mark.parametrize(
    "off",
    [
        regulariser(SPECTRAL, cap=None),
        regulariser(SPECTRAL, cap=1e9),
        regulariser(ADVERSARIAL, coefficient=0.0, attack="uniform"),
    ],
    ids=["no-cap", "wide-cap", "adversarial"],
)
def test_switched_off_an_agent_is_the_same_to_the_bit(make_agent, make_batch, option, off):
    def train(part):
        torch.manual_seed(0)
        agent = make_agent(option, seeds=2, regulariser=part)
        for _ in range(3):
            agent.update(make_batch(2, 16))
        return agent

    plain, other = train(None), train(off)
    for (name, a), (_, b) in zip(plain.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize(("variant", "option"), some(list(product(VARIANTS, AGENTS)), 5))
def test_in_any_agent_seeds_stay_apart_and_runs_resume(make_agent, make_batch, option, variant):
    def train(agent, batches):
        for batch in batches:
            measured = agent.update(batch)
            assert all(value.shape == (3,) for value in measured.values())
        return agent

    batches = [make_batch(3, 16) for _ in range(6)]

    def start():
        torch.manual_seed(1)
        return make_agent(option, seeds=3, regulariser=VARIANTS[variant])

    agent = train(start(), batches[:3])
    saved, state = copy.deepcopy(agent.state_dict()), torch.get_rng_state()
    train(agent, batches[3:])
    other = make_agent(option, seeds=3, regulariser=VARIANTS[variant])
    other.load_state_dict(saved)
    torch.set_rng_state(state)
    train(other, batches[3:])
    for name, value in agent.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name

    plain = start()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter[1] = float("nan")
    for batch in batches[:3]:
        batch.obs[1] = float("inf")
    train(plain, batches[:3])
    for name, value in plain.state_dict().items():
        if name.startswith(("critics", "actor.", "regulariser")) and value.ndim > 1:
            assert torch.equal(value[::2], saved[name][::2]), name


@pytest.mark.parametrize("option", (*AGENTS, "h2o", "darc"))
def test_every_agent_really_is_regularised(make_agent, make_batch, option):
    agent = make_agent(option, regulariser=VARIANTS["cap"])
    for _ in range(3):
        agent.update(make_batch(1, 16))
    assert (exact(agent.critics) <= 0.5 * 1.05).all()
    assert (exact(agent.target_critics) <= 0.5 * 1.05).all()
    measured = make_agent(option, regulariser=VARIANTS["fgsm"]).update(make_batch(1, 16))
    assert (measured["regularisation"] > 0).all()


@pytest.mark.parametrize("option", AGENTS)
def test_a_dataset_sets_the_unit_of_the_radius(make_agent, make_data, option):
    agent, data = make_agent(option, regulariser=VARIANTS["fgsm"]), make_data(1.0, 2.0, 3.0)
    data.transitions.obs.mul_(torch.tensor([0.1, 1.0, 10.0]))
    agent.prepare(data)
    std = data.transitions.obs.std(0, correction=0)
    if option == "td3_bc":  # its critics are given standardised states
        std = std / (std + 1e-3)
    torch.testing.assert_close(agent.regulariser.scale, std)


@pytest.mark.parametrize("option", [name for name in AGENTS if name != "td3_bc"])
def test_standardised_critics_see_the_units_of_the_dataset(
    make_agent, make_batch, make_data, option
):
    """Ten times the observations, standardised, are the same critic to rounding."""
    plain, data = make_agent(option, normalise_critic_obs=False), make_data(1.0, 2.0, 3.0)
    agent = make_agent(option, normalise_critic_obs=True)
    agent.critics.body.load_state_dict(plain.critics.body.state_dict())
    std, mean = torch.std_mean(data.transitions.obs, 0, correction=0)
    agent.prepare(data)
    batch = make_batch(1, 16)
    seen = (batch.obs - mean) / (std + 1e-3)
    value = plain.values(seen, batch.action)
    torch.testing.assert_close(agent.values(batch.obs, batch.action), value)
    each = batch.obs.unsqueeze(1).expand(-1, value.shape[1], -1, -1)
    torch.testing.assert_close(
        agent.critics.each(each, batch.action), agent.critics(batch.obs, batch.action)
    )
    torch.testing.assert_close(
        agent.critics.with_action_gradient(batch.obs, batch.action),
        plain.critics.with_action_gradient(seen, batch.action),
    )
    for name in ("mean", "scale"):
        mine, its = (
            getattr(part.standardise, name) for part in (agent.critics, agent.target_critics)
        )
        assert torch.equal(mine, its)
    assert "critics.standardise.mean" in agent.state_dict()
    assert "critics.standardise.mean" not in plain.state_dict()


def test_without_one_there_is_no_state_and_no_measurement(make_agent, make_batch):
    agent = make_agent("sac")
    assert type(agent.regulariser) is Regulariser
    assert not any(name.startswith("regulariser") for name in agent.state_dict())
    assert "regularisation" not in agent.update(make_batch(1, 16))


@pytest.mark.parametrize(
    ("option", "changes", "names"),
    [
        (SPECTRAL, {"layers": [3]}, "layers"),
        (SPECTRAL, {"layers": []}, "layers"),
        (SPECTRAL, {"cap": 0.0}, "cap"),
        (SPECTRAL, {"cap": None, "normalise": True}, "normalise"),
        (SPECTRAL, {"coefficient": -1.0}, "coefficient"),
        (SPECTRAL, {"power": 3}, "power"),
        (SPECTRAL, {"iterations": 0}, "iterations"),
        (ADVERSARIAL, {"attack": "noise"}, "attack"),
        (ADVERSARIAL, {"norm": "l1"}, "norm"),
        (ADVERSARIAL, {"coefficient": -1.0}, "coefficient"),
        (ADVERSARIAL, {"radius": 0.0}, "radius"),
        (ADVERSARIAL, {"radius_start": 0.0}, "slope=false"),
        (ADVERSARIAL, {"draws": 0}, "draws"),
    ],
)
def test_what_makes_no_sense_is_refused(option, changes, names):
    with pytest.raises(ValueError, match=names):
        regulariser(option, **changes)(critics=critics_of())


def test_the_classes_are_those_of_the_configuration():
    assert regulariser(SPECTRAL).func is SpectralNorm
    assert regulariser(ADVERSARIAL).func is AdversarialRobustness
