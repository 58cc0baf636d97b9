import math

import pytest
import torch

from reverie.agents.discriminators import Discriminators, successor
from reverie.agents.losses import masked_mean, origin_loss
from reverie.datasets.transition import Transition
from reverie.envs.specs import Spec

LINE = Spec(env_id=None, obs_dim=1, action_dim=1, action_low=(-1.0,), action_high=(1.0,))


@pytest.fixture
def make_pair(spec):
    def make(**changes):
        hyperparameters = {
            "seeds": 2,
            "hidden": [32],
            "activation": "tanh",
            "learning_rate": 1e-2,
            "logit_bound": 2.0,
            "pair_logit_bound": None,
            "noise": 0.0,
            "relative_noise": True,
            "fresh_rows": 0,
        }
        return Discriminators(**{"spec": spec, **hyperparameters, **changes})

    return make


def gaussian_batch(sizes, state_shift, dynamics_shift):
    """s ~ N(shift, 1) and s' ~ N(s + a / 2 + shift, 1), the shifts in simulated rows only."""
    seeds, rows = sizes
    is_real = (torch.arange(rows) % 2 == 0).expand(seeds, rows)
    simulated = (~is_real).float().unsqueeze(-1)
    obs = torch.randn(seeds, rows, 1) + state_shift * simulated
    action = torch.rand(seeds, rows, 1) * 2 - 1
    next_obs = obs + action / 2 + torch.randn_like(obs) + dynamics_shift * simulated
    never = torch.zeros(seeds, rows, dtype=torch.bool)
    return Transition(obs, action, torch.zeros(seeds, rows), next_obs, never, is_real)


def test_the_loss_weighs_both_classes_alike_and_guessing_scores_two_log_two():
    is_real = torch.tensor([[True, False, False, False], [True, True, False, True]])
    guess = torch.full((2, 4, 2), 3.0)
    assert torch.allclose(origin_loss(guess, is_real), torch.full((2,), 2 * math.log(2)))
    logits = torch.randn(2, 4, 2)
    loss = origin_loss(logits, is_real)
    for s in range(2):
        terms = {True: [], False: []}
        for b in range(4):
            real, simulated = (math.exp(float(x)) for x in logits[s, b])
            real_row = bool(is_real[s, b])
            terms[real_row].append(
                -math.log((real if real_row else simulated) / (real + simulated))
            )
        wanted = sum(sum(values) / len(values) for values in terms.values())
        assert float(loss[s]) == pytest.approx(wanted, abs=1e-5)


def test_a_mean_over_no_rows_is_zero_and_others_ignore_what_is_masked():
    values = torch.tensor([[1.0, math.nan], [2.0, 4.0]])
    mask = torch.tensor([[False, False], [True, True]])
    assert masked_mean(values, mask).tolist() == [0.0, 3.0]


def test_the_known_ratio_of_two_gaussians_is_recovered_and_the_states_do_not_matter(make_pair):
    """log N(x; m, 1) / N(x; m + d, 1) = d^2 / 2 - d (x - m), whatever states are visited."""
    shift = 0.8
    pair = make_pair(spec=LINE, learning_rate=5e-3)
    for _ in range(400):
        pair.learn(gaussian_batch((2, 512), state_shift=0.7, dynamics_shift=shift))
    test = gaussian_batch((2, 1000), 0.7, shift)
    exact = shift**2 / 2 - shift * (test.next_obs - test.obs - test.action / 2)[..., 0]
    error = pair.log_ratio(test.obs, test.action, test.next_obs) - exact
    # The exact ratio has a standard deviation of 0.8 and more; 0 everywhere would be off by that.
    assert (exact.std(1) > 0.7).all()
    assert (error.square().mean(1).sqrt() < 0.3).all(), error.square().mean(1).sqrt()
    assert (error.mean(1).abs() < 0.15).all()


def test_equal_dynamics_stay_at_chance_given_the_pair(make_pair):
    pair = make_pair(spec=LINE)
    for _ in range(150):
        _, measured = pair.learn(gaussian_batch((2, 512), state_shift=1.0, dynamics_shift=0.0))
    test = gaussian_batch((2, 1000), 1.0, 0.0)
    ratio = pair.log_ratio(test.obs, test.action, test.next_obs)
    assert (ratio.abs().mean(1) < 0.2).all()
    # The pair alone tells the classes apart, which the successor's network need not repeat.
    assert (measured["discriminator_loss_sa"] < 2 * math.log(2) - 0.1).all()
    difference = measured["discriminator_loss_sas"] - measured["discriminator_loss_sa"]
    assert (difference.abs() < 0.05).all()


def test_states_far_apart_leak_into_the_ratio_unless_the_pair_may_be_surer(make_pair):
    """Equal dynamics, so the ratio is 1; the log-odds of the states are 18 on average."""
    uncertainty = {}
    for bound in (None, 10.0):
        torch.manual_seed(0)
        pair = make_pair(spec=LINE, pair_logit_bound=bound)
        for _ in range(150):
            pair.learn(gaussian_batch((2, 256), state_shift=6.0, dynamics_shift=0.0))
        test = gaussian_batch((2, 1000), 6.0, 0.0)
        ratio = pair.log_ratio(test.obs, test.action, test.next_obs)
        uncertainty[bound] = -masked_mean(ratio, ~test.is_real)
    assert (uncertainty[None] > 1).all() and (uncertainty[10.0] < uncertainty[None] / 2).all(), (
        uncertainty
    )


def test_the_ratio_is_bayes_rule_on_both_networks_and_bounded(make_pair, make_batch):
    pair, batch = make_pair(logit_bound=1.5), make_batch(2, 9)
    with torch.no_grad():
        for network in (pair.of_pairs, pair.of_successors):
            network.layers[-1].weight.mul_(30)
        of_pairs = pair._pair_logits(batch.obs, batch.action)
        of_rows = pair._successor_logits(batch.obs, batch.action, batch.next_obs)
        p_sa, p_sas = of_pairs.softmax(-1), (of_rows + of_pairs).softmax(-1)
        bayes = p_sas[..., 0] / p_sas[..., 1] * p_sa[..., 1] / p_sa[..., 0]
    ratio = pair.log_ratio(batch.obs, batch.action, batch.next_obs)
    assert torch.allclose(ratio, bayes.log(), atol=1e-4)
    assert ratio.abs().max() <= 3 and ratio.abs().max() > 2


def test_the_step_follows_the_gradient_of_both_losses(make_pair, make_batch):
    """Two losses, one step: the pair's network gets the gradient of both."""
    pair, batch = make_pair(), make_batch(2, 8)
    pairs = pair._pair_logits(batch.obs, batch.action)
    rows = pair._successor_logits(batch.obs, batch.action, successor(batch))
    parameters = [*pair.of_pairs.parameters(), *pair.of_successors.parameters()]
    naive = [torch.zeros_like(parameter) for parameter in parameters]
    for logits in (pairs, pairs + rows):
        for s in range(2):
            for value in (True, False):
                chosen = batch.is_real[s] == value
                log_p = logits[s, chosen].log_softmax(-1)[:, 0 if value else 1]
                found = torch.autograd.grad(
                    -log_p.mean(), parameters, retain_graph=True, allow_unused=True
                )
                for total, part in zip(naive, found, strict=True):
                    total += 0 if part is None else part
    seen = []
    pair.optimiser.apply_gradients = seen.extend
    pair.learn(batch)
    assert len(seen) == len(naive)
    for gradient, wanted in zip(seen, naive, strict=True):
        assert torch.allclose(gradient, wanted, atol=1e-6)


def test_fresh_rows_are_kept_from_the_agent_in_equal_shares_of_the_streams(make_pair, make_batch):
    pair, batch = make_pair(fresh_rows=2), make_batch(2, 24)
    batch.is_real[:] = torch.arange(24) < 12
    rows, fresh = pair._split(batch)
    assert rows.shape == (2, 8) and fresh.shape == (2, 16)
    assert (rows.is_real.sum(1) == 4).all() and (fresh.is_real.sum(1) == 8).all()
    together = torch.cat([rows.reward, fresh.reward], 1).sort(1).values
    assert torch.equal(together, batch.reward.sort(1).values)
    assert torch.equal(pair.learn(batch)[0].obs, rows.obs)
    assert make_pair().learn(batch)[0] is batch
    with pytest.raises(ValueError, match=r"batch_size=25 does not split.*multiple of 3"):
        pair.learn(make_batch(2, 25))


@pytest.mark.parametrize("relative", [True, False])
def test_the_noise_is_in_units_of_the_dataset_or_raw(make_pair, make_data, relative):
    data = make_data(1.0, 2.0, 3.0)
    data.transitions.obs[:] *= torch.tensor([100.0, 1.0, 0.0])
    pair = make_pair(noise=0.1, relative_noise=relative)
    pair.prepare(data)
    noise = pair._noisy(torch.zeros(2, 4000, 3), pair.obs_scale).std((0, 1))
    scale = data.transitions.obs.std(0, correction=0) if relative else torch.ones(3)
    assert torch.allclose(noise, 0.1 * scale, rtol=0.05)
    state = torch.get_rng_state()
    make_pair(noise=0.0)
    silent = make_pair(noise=0.0)
    torch.set_rng_state(state)
    assert torch.equal(silent._noisy(torch.ones(2, 3), silent.obs_scale), torch.ones(2, 3))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logit_bound": 0.0}, "logit_bound=0.0 must be positive"),
        ({"pair_logit_bound": -1.0}, "pair_logit_bound=-1.0 must be positive"),
        ({"noise": -0.1}, "noise=-0.1 and .* must not be negative"),
        ({"fresh_rows": -1}, "fresh_rows=-1 must not be negative"),
    ],
)
def test_impossible_numbers_are_refused(make_pair, change, message):
    with pytest.raises(ValueError, match=message):
        make_pair(**change)
