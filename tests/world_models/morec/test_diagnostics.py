"""Measurements of a dynamics reward, with models, rewards and filters whose answers are known."""

import math

import pytest
import torch

from reverie.envs.specs import Spec
from reverie.envs.true_dynamics import simulator_for
from reverie.world_models.base import Step, WorldModel
from reverie.world_models.filters import FilterResult, KeepAll, TransitionFilter
from reverie.world_models.morec import diagnostics as selection
from reverie.world_models.morec.dynamics_reward import DynamicsReward

OFFSETS = torch.tensor([0.4, -0.1, 0.2, -0.3, 0.0])


class Offsets(WorldModel):
    """Candidate k is the true step, s' = s + a, moved by an offset of its own."""

    seeds = 2

    def fit(self, data, progress=None):
        return {}

    def signature(self):
        return {}

    def step(self, obs, action, candidates=1, state=None):
        moved = obs + action + OFFSETS[:candidates].view(-1, 1, 1, 1)
        flags = torch.zeros(moved.shape[:-1], dtype=torch.bool)
        return Step(moved, moved[..., 0], flags, torch.zeros(obs.shape[:-1]))


def closeness(obs, action, next_obs):
    """A perfect reward: minus the true error."""
    return -(next_obs - obs - action).abs().mean(-1)


class Best(TransitionFilter):
    """Keeps the candidate without an offset and cuts a rollout after `limit` steps."""

    candidates = 5

    def __init__(self, limit):
        super().__init__()
        self.limit = limit

    def forward(self, obs, action, step, elapsed_steps=0):
        kept = Step(step.next_obs[4:], step.reward[4:], step.terminated[4:], step.uncertainty)
        goes_on = torch.full(obs.shape[:-1], elapsed_steps < self.limit)
        return FilterResult(kept, keep=goes_on, goes_on=goes_on)


@pytest.fixture
def rows(make_batch):
    batch = make_batch(30, obs_dim=1, action_dim=1)
    batch.next_obs[:] = batch.obs + batch.action
    return batch


RULER = selection.Ruler(torch.tensor([0]), torch.tensor([2.0]))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_perfect_reward_orders_every_group_and_its_opposite_none(rows, sign):
    found = selection.one_step(
        Offsets(), lambda *at: sign * closeness(*at), rows, RULER, candidates=5
    )
    assert found["rank"] == pytest.approx([-sign] * 2)
    assert found["hit"] == [float(sign > 0)] * 2
    wanted = 0.0 if sign > 0 else 0.2
    assert found["error_chosen"] == pytest.approx([wanted] * 2, abs=1e-6)
    assert found["error_random"] == pytest.approx([0.1] * 2)  # mean |offset| / 2
    assert found["error_best"] == pytest.approx([0.0] * 2, abs=1e-6)
    assert all(math.copysign(1, value) == -sign for value in found["pearson"])
    gap = found["reward_true"][0] - found["reward_proposed"][0]
    assert gap == pytest.approx(sign * 0.2, abs=1e-6)
    assert len(found["points"][0]) == 150


def test_a_blind_reward_hits_by_chance_and_one_without_scores_breaks_nothing(rows):
    def blind(obs, action, next_obs):
        return torch.rand(next_obs.shape[:-1])

    def silent(obs, action, next_obs):
        score = closeness(obs, action, next_obs)
        score[:3] = torch.nan
        return score

    many = type(rows)(*(getattr(rows, name).repeat_interleave(100, 0) for name in vars(rows)))
    found = selection.one_step(Offsets(), blind, many, RULER, candidates=5)
    # 3000 rows: three standard errors of the share are 0.022, of the mean correlation 0.028.
    assert found["hit"] == pytest.approx([0.2] * 2, abs=0.022)
    assert found["rank"] == pytest.approx([0.0] * 2, abs=0.028)
    found = selection.one_step(Offsets(), silent, rows, RULER, candidates=5)
    assert found["rank"] == [None] * 2 and found["pearson"] == [None] * 2


def test_rollouts_with_and_without_a_filter_in_closed_form():
    """Without the filter the first candidate goes on, so the error grows by its 0.4 a step."""
    action = torch.rand(7, 6, 1)
    obs = torch.cat([torch.zeros(7, 1, 1), action.cumsum(1)], 1)
    found = selection.rollouts(Offsets(), Best(limit=4), obs, action, RULER, seed=0)
    assert (found["steps"], found["segments"]) == (6, 7)
    for seed in range(2):
        for statistic in ("mean", "median"):
            assert found["unfiltered"][statistic][seed] == pytest.approx(
                [0.2 * k for k in range(1, 7)], abs=1e-5
            )
            assert found["filtered"][statistic][seed] == pytest.approx([0.0] * 6, abs=1e-5)
        assert found["filtered"]["alive"][seed] == [1, 1, 1, 1, 0, 0]
        # After the cut nobody is left, so there is no share.
        assert found["filtered"]["cut"][seed] == [0, 0, 0, 0, 1, None]
        assert found["unfiltered"]["alive"][seed] == [1] * 6
    assert found["filtered"]["length"] == [4.0] * 2


def test_a_policy_acts_on_what_the_model_shows():
    """s' = s - s / 2 + 0.4 without the filter: the error 0.8 (1 - 2^-k) stays below 0.8."""
    obs = torch.cat([torch.full((3, 1, 1), 0.5**k) for k in range(7)], 1)
    found = selection.rollouts(
        Offsets(), Best(9), obs, -obs[:, :-1] / 2, RULER, seed=0, policy=lambda obs: -obs / 2
    )
    for seed in range(2):
        assert found["unfiltered"]["mean"][seed] == pytest.approx(
            [0.4 * (1 - 0.5**k) for k in range(1, 7)], abs=1e-6
        )
        assert found["filtered"]["mean"][seed] == pytest.approx([0.0] * 6, abs=1e-6)


def test_both_arms_get_the_same_noise():
    class Noisy(Offsets):
        def step(self, obs, action, candidates=1, state=None):
            plain = super().step(obs, action, candidates)
            moved = plain.next_obs + torch.randn_like(plain.next_obs)
            return Step(moved, plain.reward, plain.terminated, plain.uncertainty)

    class First(KeepAll):
        candidates = 5

        def forward(self, obs, action, step, elapsed_steps=0):
            torch.rand(3)  # as a filter does that draws its choice
            return super().forward(obs, action, step, elapsed_steps)

    action = torch.rand(3, 4, 1)
    obs = torch.cat([torch.zeros(3, 1, 1), action.cumsum(1)], 1)
    state = torch.get_rng_state()
    found = selection.rollouts(Noisy(), First(), obs, action, RULER, seed=1)
    assert found["filtered"] == found["unfiltered"]
    assert torch.equal(state, torch.get_rng_state())


def test_episodes_are_those_that_neither_fit_saw(make_dataset):
    class Reward(DynamicsReward):
        def __init__(self):
            torch.nn.Module.__init__(self)

        def held_out(self, data):
            return torch.tensor([0, 2, 3])

    data, model = make_dataset(episodes=4, length=3), Offsets()
    assert selection.unseen(model, Reward(), data).tolist() == [0, 2, 3]
    for held, found in (([1, 2], [2]), ([1], [0, 2, 3])):
        model.held_out = lambda _, held=held: torch.tensor(held)
        assert selection.unseen(model, Reward(), data).tolist() == found


def test_segments_lie_inside_episodes_and_follow_on(make_dataset):
    data = make_dataset(episodes=4, length=20)
    obs, action = selection.segments(data, torch.tensor([1, 3]), steps=8, limit=9, seed=0)
    assert obs.shape == (9, 9, 2) and action.shape == (9, 8, 1)
    rows = data.transitions
    for w in range(9):
        (first,) = (rows.obs == obs[w, 0]).all(1).nonzero()[0].tolist()
        assert first // 20 == (first + 7) // 20 and first // 20 in (1, 3)
        assert torch.equal(obs[w, :8], rows.obs[first : first + 8])
        assert torch.equal(obs[w, 8], rows.next_obs[first + 7])
        assert torch.equal(action[w], rows.action[first : first + 8])
    longest, _ = selection.segments(data, torch.tensor([0]), steps=99, limit=9, seed=0)
    assert longest.shape == (1, 21, 2)


def test_the_ruler_leaves_out_constant_columns_and_what_is_not_finite_is_infinite(make_dataset):
    data = make_dataset(episodes=2, length=10)
    data.transitions.obs[:, 1] = 3.0
    ruler = selection.Ruler.of(data)
    assert ruler.columns.tolist() == [0]
    found = ruler.error(torch.tensor([[1.0, 9.0], [math.nan, 0.0]]), torch.zeros(2, 2))
    assert found[0] == pytest.approx(1 / float(data.transitions.obs[:, 0].std(correction=0)))
    assert found[1] == math.inf


def test_true_rows_are_the_simulators():
    spec = Spec("ReverieRefrigerator-v0", 1, 1, (-1.0,), (1.0,))
    rows = selection.true_rows(
        simulator_for(spec, threads=1), torch.tensor([[5.0], [25.0]]), torch.tensor([[1.0], [-1.0]])
    )
    torch.testing.assert_close(rows.next_obs, torch.tensor([[3.0], [25.0]]))
    assert rows.is_real.all()


@pytest.mark.pictures
def test_the_picture_shows_even_what_is_undefined(tmp_path):
    one = {"points": [[], []], "pearson": [None], "hit": [0.1]}
    arm = {"median": [[0.1, None]], "alive": [[1.0, 0.0]], "cut": [[0.0, 1.0]]}
    rolled = {"steps": 2, "filtered": arm, "unfiltered": arm}
    selection.figure({"one_step": one, "rollouts": rolled}).savefig(tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000
