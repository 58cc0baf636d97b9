"""The dynamics reward: its formula, its game, what it learns, and that seeds stay apart."""

import math
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.world_models.morec.dynamics_reward import DynamicsReward, reward_of_logits
from reverie.world_models.morec.game import DynamicsGame, discriminator_loss

SPEC = Spec(env_id=None, obs_dim=1, action_dim=1, action_low=(-1.0,), action_high=(1.0,))
GAME = {
    "learning_rate": 3e-3,
    "entropy_bonus": 1e-3,
    "starts": 64,
    "horizon": 2,
    "discount": 0.95,
    "player_hidden": [8],
    "player_activation": "relu",
    "log_variance_bounds": [-10.0, 0.5],
    "bound_coefficient": 0.01,
    "generator_learning_rate": 1e-3,
    "behaviour_updates": 20,
    "behaviour_batch": 32,
    "behaviour_learning_rate": 1e-3,
    "noise_share": 0.5,
    "noise_scale": [1e-2, 5.0],
}
SMALL = {
    "spec": SPEC,
    "seeds": 2,
    "seed": 0,
    "hidden": [32, 32],
    "activation": "relu",
    "delta_input": True,
    "iterations": 20,
    "restart_every": 8,
    "snapshot_every": 2,
    "keep": 6,
    "thin": 2,
    "level_decay": 0.9,
    "minimal_gap": 1e-3,
    "heldout_episodes": 2,
}


def dynamics_reward(*, game=(), **changes):
    build = partial(DynamicsGame, **{**GAME, **dict(game)})
    return DynamicsReward(**{**SMALL, **changes}, game=build)


def linear(s, a):
    return 0.9 * s + 0.3 * a


@pytest.fixture(scope="module")
def data():
    """Episodes of a linear system, s' = 0.9 s + 0.3 a."""
    generator = torch.Generator().manual_seed(0)
    action = torch.rand(20, 50, 1, generator=generator) * 2 - 1
    states = [torch.randn(20, 1, generator=generator)]
    for t in range(50):
        states.append(linear(states[-1], action[:, t]))
    obs = torch.stack(states, 1)
    last = torch.zeros(20, 50, dtype=torch.bool)
    last[:, -1] = True
    return Dataset(
        name="linear",
        spec=SPEC,
        transitions=Transition(
            obs=obs[:, :-1].reshape(-1, 1),
            action=action.reshape(-1, 1),
            reward=torch.zeros(1000),
            next_obs=obs[:, 1:].reshape(-1, 1),
            terminated=torch.zeros(1000, dtype=torch.bool),
            is_real=torch.ones(1000, dtype=torch.bool),
        ),
        truncated=last.flatten(),
        valid_next=torch.ones(1000, dtype=torch.bool),
        episode_starts=torch.arange(0, 1000, 50),
    )


def known(**changes):
    """A reward of random weights, levels and units, as if fitted."""
    reward = dynamics_reward(**changes)
    for buffer, low, high in (
        (reward.learner, -0.2, -0.1),
        (reward.expert, -0.1, 0.1),
        (reward.obs_low, -3.0, -1.0),
        (reward.obs_scale, 2.0, 4.0),
        (reward.action_low, -1.0, -0.5),
        (reward.action_scale, 1.0, 2.0),
    ):
        buffer.uniform_(low, high)
    reward.ready = True
    return reward


@pytest.mark.parametrize("delta_input", [True, False])
def test_the_score_is_the_published_formula_one_snapshot_at_a_time(delta_input):
    spec = Spec(env_id=None, obs_dim=2, action_dim=1, action_low=(-1.0,), action_high=(1.0,))
    reward = known(spec=spec, delta_input=delta_input)
    reward.expert[0, 1] = reward.learner[0, 1] + 1e-4  # no gap: not used
    obs, action, after = torch.randn(2, 3, 2), torch.randn(2, 3, 1), torch.randn(4, 2, 3, 2)
    score = reward.score(obs, action, after)
    for k in range(4):
        for seed in range(2):
            for row in range(3):
                s, n = (
                    1.6 * (x - reward.obs_low) / reward.obs_scale - 0.8
                    for x in (obs[seed, row], after[k, seed, row])
                )
                a = 2 * (action[seed, row] - reward.action_low) / reward.action_scale - 1
                x = torch.cat([s, a, n - s if delta_input else n])
                chances = []
                for j in range(reward.learner.shape[1]):
                    low, high = reward.learner[seed, j].item(), reward.expert[seed, j].item()
                    if high - low < 1e-3:
                        continue
                    out = x
                    for layer in reward.snapshots.layers:
                        out = out @ layer.weight[seed, j] + layer.bias[seed, j, 0]
                        out = out.relu() if layer is not reward.snapshots.layers[-1] else out
                    clipped = min(max(out.item(), low), high)
                    stretched = 2 * (clipped - low) / (high - low + 1e-7) - 1
                    chances.append(1 / (1 + math.exp(-stretched)))
                assert len(chances) == (2 if seed == 0 else 3)
                expected = -math.log(1 - sum(chances) / len(chances) + 1e-9)
                assert score[k, seed, row].item() == pytest.approx(expected, abs=1e-4)


def test_the_score_has_the_range_of_the_paper_and_its_threshold():
    low, high = torch.zeros(1, 1), torch.ones(1, 1)
    logit = torch.tensor([[[-9.0, 0.402, 9.0, 0.5]]])  # 40 % of the way from learner to expert
    assert torch.allclose(
        reward_of_logits(logit, low, high, 1e-3),
        torch.tensor([[0.3133, 0.6, 1.3133, math.log(2)]]),
        atol=5e-4,
    )
    assert reward_of_logits(logit, high, low, 1e-3).isnan().all()  # no snapshot is left


def test_scores_do_not_depend_on_how_many_rows_go_through_at_a_time(monkeypatch):
    reward = known()
    obs, action, after = torch.randn(2, 7, 1), torch.randn(2, 7, 1), torch.randn(3, 2, 7, 1)
    whole = reward.score(obs, action, after)
    monkeypatch.setattr("reverie.world_models.morec.dynamics_reward._ACTIVATIONS", 2 * 3 * 32 * 4)
    assert torch.allclose(reward.score(obs, action, after), whole, atol=1e-6)


def test_what_is_not_finite_has_no_score_and_spoils_no_other():
    reward = known()
    obs, action, after = torch.randn(2, 3, 1), torch.randn(2, 3, 1), torch.randn(2, 2, 3, 1)
    clean = reward.score(obs, action, after)
    after[1, 0, 0], after[0, 1, 2] = -torch.inf, torch.nan
    dirty = reward.score(obs, action, after)
    assert dirty.isnan().nonzero().tolist() == [[0, 1, 2], [1, 0, 0]]
    assert torch.equal(dirty.nan_to_num(0), torch.where(dirty.isnan(), 0.0, clean))


def test_the_discriminator_loss_is_cross_entropy_less_entropy():
    logits, weights = [torch.randn(2, 5) for _ in range(3)], [1.0, 0.25, 0.75]
    expected = 0.0
    for turn, (logit, weight) in enumerate(zip(logits, weights, strict=True)):
        chance = logit.sigmoid()
        label = torch.full_like(logit, float(turn == 0))
        error = F.binary_cross_entropy(chance, label, reduction="none").mean(1)
        entropy = -(chance * chance.log() + (1 - chance) * (1 - chance).log()).mean(1)
        expected = expected + weight * error - 0.1 * weight / 2 * entropy
    assert torch.allclose(discriminator_loss(logits, weights, 0.1), expected, atol=1e-5)


def test_rollouts_follow_the_generator_and_noise_spares_state_and_action(data):
    reward = dynamics_reward()
    reward.fit(data)
    game = reward.game
    rows = game.rollout(game.draw(5)[..., :1])  # [S, H, B, (s, a, change)]
    assert rows.shape == (2, 2, 5, 3)
    assert torch.equal(rows[:, 1, :, 0], rows[:, 0, :, 0] + rows[:, 0, :, 2])
    assert (rows[..., 1].abs() <= 1).all()
    real = game.draw(4000)
    noise = game.perturb(real) - real
    assert (noise[..., :2] == 0).all()
    scale = (noise[..., 2] / game.change_std).abs()
    # Half of the scales lie below sqrt(0.01 * 5), and the median of |N(0, 1)| is 0.674.
    assert 0.08 < scale.median() < 0.25 and 5 < scale.max() < 25


def test_true_transitions_of_a_linear_system_score_above_perturbed_ones(data):
    reward = dynamics_reward(
        iterations=160, restart_every=40, snapshot_every=10, keep=8, game={"starts": 128}
    )
    described = reward.fit(data)
    assert described["snapshots"] == 4 and described["heldout_rows"] == 100
    generator = torch.Generator().manual_seed(1)
    s = torch.rand(2, 300, 1, generator=generator) * 1.4 - 0.7
    a = torch.rand(2, 300, 1, generator=generator) * 2 - 1
    true = linear(s, a)
    shift = torch.tensor([0.0, 0.4, -0.4, 0.8, -0.8]).view(-1, 1, 1, 1)
    score = reward.score(s, a, true + shift).mean(-1)  # [K, S]
    assert (score[0] > score[1:] + 0.1).all()
    assert (score[1:3] > score[3:]).all()
    for recorded, perturbed in zip(
        described["reward_recorded"], described["reward_perturbed"], strict=True
    ):
        assert recorded > perturbed + 0.05


def test_the_snapshots_are_every_so_many_of_the_last():
    assert dynamics_reward().recorded_at() == [10, 14, 18]  # of 10, 12, ..., 20
    assert dynamics_reward(keep=400, thin=4).recorded_at() == [2, 10, 18]


@pytest.mark.parametrize(("every", "restarts"), [(1, 19), (8, 2), (None, 0)])
def test_the_generator_starts_over_every_so_many_iterations(data, monkeypatch, every, restarts):
    reward, counted = dynamics_reward(restart_every=every), []
    restart = DynamicsGame.restart_generator
    monkeypatch.setattr(
        DynamicsGame, "restart_generator", lambda game: (counted.append(1), restart(game))
    )
    reward.fit(data)
    assert len(counted) == restarts  # none before the first of 20 iterations


def test_a_poisoned_seed_leaves_the_others_bitwise_unchanged(data, monkeypatch):
    first, second = (
        dynamics_reward(game={"noise_share": 0.0}),
        dynamics_reward(game={"noise_share": 0.0}),
    )
    first.fit(data)
    begin = DynamicsGame.begin

    def poisoned(game, table, wrap):
        begin(game, table, wrap)
        with torch.no_grad():
            game.discriminator.layers[0].weight[1] = torch.nan

    monkeypatch.setattr(DynamicsGame, "begin", poisoned)
    with pytest.raises(Mistake, match=r"seeds \[1\] diverged"):
        second.fit(data)
    assert not second.ready
    for name in ("expert", "learner"):
        assert torch.equal(getattr(first, name)[0], getattr(second, name)[0])
    for one, two in zip(first.snapshots.parameters(), second.snapshots.parameters(), strict=True):
        assert torch.equal(one[0], two[0])
    assert not torch.equal(first.expert[0], first.expert[1])


def test_state_and_signature_are_all_a_copy_needs_and_the_run_keeps_its_random_stream(data):
    reward, copy = dynamics_reward(), dynamics_reward()
    obs, action, after = torch.randn(2, 3, 1), torch.randn(2, 3, 1), torch.randn(2, 2, 3, 1)
    with pytest.raises(RuntimeError, match="not fitted"):
        copy.score(obs, action, after)
    before = torch.get_rng_state()
    reward.fit(data)
    assert torch.equal(before, torch.get_rng_state())
    copy.load_state_dict(reward.state_dict())
    assert copy.signature() == reward.signature()
    assert torch.equal(copy.score(obs, action, after), reward.score(obs, action, after))
    assert dynamics_reward(game={"discount": 0.5}).signature() != reward.signature()


def test_a_constant_column_keeps_its_unit(data):
    constant = torch.full((1000, 1), 3.0)
    transitions = data.transitions
    doubled = Dataset(
        **{
            **{name: getattr(data, name) for name in vars(data) if name in data.__annotations__},
            "spec": Spec(None, 2, 1, (-1.0,), (1.0,)),
            "transitions": Transition(
                obs=torch.cat([transitions.obs, constant], -1),
                action=transitions.action,
                reward=transitions.reward,
                next_obs=torch.cat([transitions.next_obs, constant], -1),
                terminated=transitions.terminated,
                is_real=transitions.is_real,
            ),
        }
    )
    reward = dynamics_reward(spec=doubled.spec)
    reward.fit(doubled)
    assert reward.obs_scale[1] == 1 and reward.obs_low[1] == 3
    row = torch.tensor([[0.0, 3.0]])
    change = reward.normalise_rows(row, torch.zeros(1, 1), row + 0.01)[0, 4]
    assert change.item() == pytest.approx(1.6 * 0.01, rel=1e-4)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: dynamics_reward(iterations=1), "iterations >= snapshot_every"),
        (lambda: dynamics_reward(level_decay=1.0), "level_decay=1.0"),
        (lambda: dynamics_reward(restart_every=0), "restart_every=0"),
        (lambda: dynamics_reward(heldout_episodes=-1), "heldout_episodes=-1"),
        (lambda: dynamics_reward(game={"noise_share": 2.0}), "noise_share=2.0"),
        (lambda: dynamics_reward(game={"noise_scale": [0.0, 1.0]}), "noise_scale"),
        (lambda: dynamics_reward(game={"horizon": 0}), "horizon"),
    ],
)
def test_wrong_numbers_are_refused(build, expected):
    with pytest.raises(ValueError, match=expected):
        build()


def test_a_reward_that_tells_nothing_apart_is_refused(data):
    with pytest.raises(Mistake, match="no snapshot of the dynamics reward of seeds"):
        dynamics_reward(minimal_gap=1e6).fit(data)
