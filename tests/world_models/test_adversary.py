"""RAMBO's adversary: its likelihood by hand, which way it moves outcomes, seeds apart, refusals."""

import math

import pytest
import torch

from reverie.mistake import Mistake
from reverie.world_models.adversary import Adversary, mixture_log_prob
from reverie.world_models.true_dynamics import TrueDynamics

HYPERPARAMETERS = {
    **{"weight": 1.0, "every": 10, "steps": 100, "batch": 64, "horizon": 2},
    **{"learning_rate": 2e-3, "discount": 0.9},
}


def act(obs):
    return torch.zeros(*obs.shape[:-1], 1)


def moments(obs):
    return act(obs), None


def worthless(obs, action):
    return torch.zeros(obs.shape[0], 2, obs.shape[1])


@pytest.fixture
def make_adversary(make_dataset, make_ensemble):
    data = make_dataset(noise=0.3)
    data.transitions.reward[:] = torch.randn(len(data))  # the same gamble everywhere

    def make(model=None, **changes):
        if model is None:
            model = make_ensemble(seeds=2)
            model.fit(data)
        given = {"policy": act, "moments": moments, "critics": worthless}
        return Adversary(model=model, data=data, **(HYPERPARAMETERS | given | changes))

    return make


def outcomes(adversary):
    """Mean of the predicted reward, and the log density of the recorded rows, `[S]`."""
    gaussians, table = adversary.ensemble.gaussians, adversary.table
    inputs, target = table.expand(2, 1, -1, -1).split(gaussians.widths, -1)
    mean, log_variance = gaussians(inputs)
    everyone = torch.ones(mean.shape[:2], dtype=torch.bool)
    log_prob = mixture_log_prob(mean, log_variance, target, everyone)
    return mean[..., -1].mean((1, 2)), log_prob.mean(1)


def test_the_likelihood_is_that_of_the_elites_in_equal_parts():
    mean = torch.tensor([0.0, 1.0, 50.0]).view(1, 3, 1, 1)
    log_variance = torch.tensor([0.0, math.log(4.0), 0.0]).view(1, 3, 1, 1)
    elite = torch.tensor([[True, True, False]])
    found = mixture_log_prob(mean, log_variance, torch.full((1, 1, 1, 1), 3.0), elite)
    first = math.exp(-4.5) / math.sqrt(2 * math.pi)
    second = math.exp(-0.5) / (2 * math.sqrt(2 * math.pi))
    assert found.item() == pytest.approx(math.log((first + second) / 2), rel=1e-5)


def test_dimensions_are_one_joint_density_and_far_outcomes_stay_finite():
    mean, log_variance = torch.zeros(1, 2, 1, 3), torch.zeros(1, 2, 1, 3)
    both = torch.ones(1, 2, dtype=torch.bool)
    near = mixture_log_prob(mean, log_variance, torch.zeros(1, 1, 1, 3), both)
    assert near.item() == pytest.approx(-1.5 * math.log(2 * math.pi), rel=1e-5)
    far = mixture_log_prob(mean, log_variance, torch.full((1, 1, 1, 3), 100.0), both)
    assert far.item() == pytest.approx(near.item() - 15000, rel=1e-4)


def test_the_advantage_is_of_the_mean_action_and_ends_at_a_terminal_row(make_adversary):
    def critics(obs, action):
        value = obs[..., 0] + 10 * action[..., 0]
        return torch.stack([value, value + 5], 1)  # the lower one counts

    adversary = make_adversary(
        critics=critics, moments=lambda obs: (torch.ones(*obs.shape[:-1], 1), None)
    )
    obs, next_obs = torch.zeros(2, 3, 2), torch.ones(2, 3, 2)
    action, reward = torch.full((2, 3, 1), 0.1), torch.tensor([0.0, 1.0, 2.0]).expand(2, 3)
    ended = torch.tensor([False, False, True]).expand(2, 3)
    found = adversary.advantage(obs, action, reward, next_obs, ended)
    plain = torch.tensor([0.9 * 11 - 1, 1 + 0.9 * 11 - 1, 2 - 1.0])
    wanted = (plain - plain.mean()) / plain.std(correction=0)
    torch.testing.assert_close(found, wanted.expand(2, 3))


def test_good_outcomes_become_less_likely_and_only_by_the_weight(make_adversary):
    adversary = make_adversary()
    begun = {name: value.clone() for name, value in adversary.model.state_dict().items()}
    _, fits = outcomes(adversary)
    told = adversary.change()
    assert {name: value.shape for name, value in told.items()} == dict.fromkeys(
        ("adversarial_loss", "likelihood_loss", "outcome_log_prob"), (2,)
    )
    worse, _ = outcomes(adversary)
    elites = [state["elite_members"] for state in (begun, adversary.model.state_dict())]
    assert torch.equal(*elites)
    assert not any(each.requires_grad for each in adversary.model.parameters())

    adversary.model.load_state_dict(begun)
    honest = make_adversary(adversary.model, weight=1e-9)
    honest.change()
    same, fits_still = outcomes(honest)
    assert (worse < same - 0.2).all(), (same, worse)
    assert (fits_still > fits - 0.1).all()


def test_seeds_do_not_see_each_other(make_adversary):
    def moved(critics):
        adversary = make_adversary(critics=critics, steps=6)
        torch.manual_seed(5)
        adversary.change()
        return adversary.ensemble.gaussians.trained_parameters()

    def other(obs, action):
        return torch.stack([torch.zeros_like(obs[0]), 9 * obs[1]])[..., :1].transpose(1, 2)

    pairs = list(zip(moved(worthless), moved(other), strict=True))
    assert all(torch.equal(plain[0], changed[0]) for plain, changed in pairs)
    assert not all(torch.equal(plain[1], changed[1]) for plain, changed in pairs)


def test_its_moments_are_all_that_a_checkpoint_needs_beside_the_model(make_adversary):
    first = make_adversary(steps=3)
    first.change()
    kept = [
        {name: value.clone() for name, value in state.items()}
        for state in (first.model.state_dict(), first.contents())
    ]
    torch.manual_seed(7)
    first.change()
    second = make_adversary(steps=3)
    second.model.load_state_dict(kept[0])
    second.restore(kept[1])
    torch.manual_seed(7)
    second.change()
    for ours, theirs in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_what_cannot_be_trained_is_refused_and_a_weight_of_0_asks_for_nothing(
    make_adversary, make_ensemble, toy_spec
):
    with pytest.raises(Mistake, match=r"per_seed=true"):
        make_adversary(make_ensemble(seeds=2, per_seed=False))
    with pytest.raises(Mistake, match=r"TrueDynamics.*world_model=ensemble"):
        make_adversary(TrueDynamics.__new__(TrueDynamics))
    for kept in ({"rollout_member": "rollout"}, {"dropout": 0.1, "rollout_dropout": 0.1}):
        with pytest.raises(
            Mistake, match=r"rollout_member=step and world_model\.rollout_dropout=0"
        ):
            make_adversary(make_ensemble(**kept))
    assert make_adversary(weight=0.0).every == 0 and make_adversary().every == 10
