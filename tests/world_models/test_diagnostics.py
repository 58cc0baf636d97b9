"""Measurements against models whose errors are known in closed form."""

import json
import math
from dataclasses import replace

import pytest
import torch

from reverie.mistake import Mistake
from reverie.world_models import diagnostics
from reverie.world_models.base import Step, WorldModel
from reverie.world_models.measures import (
    auroc,
    calibration,
    plain,
    precision_and_recall,
    quantile,
    ranks,
    spearman,
    valid_steps,
)


class Linear(WorldModel):
    """The dynamics of the toy dataset, plus a constant bias and Gaussian noise on each step."""

    def __init__(self, seeds=1, bias=(0.0, 0.0), noise=0.0, threshold=math.inf):
        super().__init__()
        self.seeds, self.noise, self.threshold = seeds, noise, threshold
        self.register_buffer("bias", torch.tensor(bias))

    def fit(self, data, progress=None):
        return {}

    def signature(self):
        return {}

    def outcome(self, obs, action):
        drift = torch.stack([0.1 * obs[..., 1], 0.2 * action[..., 0] - 0.1 * obs[..., 0]], -1)
        return obs + drift + self.bias, -obs.square().sum(-1)

    def step(self, obs, action, candidates=1, state=None):
        next_obs, reward = self.outcome(obs, action)
        next_obs = next_obs + self.noise * torch.randn(candidates, *next_obs.shape)
        reward = reward + self.noise * torch.randn(candidates, *reward.shape)
        return Step(next_obs, reward, next_obs[..., 0] > self.threshold, obs[..., 0].abs())


class Gaussian(Linear):
    """The same with a predictive distribution of two equal members whose std is `claimed`."""

    def __init__(self, claimed, **settings):
        super().__init__(**settings)
        self.claimed = claimed

    def predict(self, obs, action):
        next_obs, reward = self.outcome(obs, action)
        mean = torch.cat([next_obs, reward.unsqueeze(-1)], -1).unsqueeze(1)
        return mean.repeat(1, 2, 1, 1), torch.full_like(mean, self.claimed).repeat(1, 2, 1, 1)


@pytest.fixture
def data(make_dataset):
    return make_dataset(episodes=30, length=120)


def test_the_exact_model_has_no_error_at_any_horizon(data):
    found = diagnostics.measure(Linear(seeds=2), data)
    assert found["measured_on"] == {"held_out": False, "episodes": 3, "rows": 360}
    assert found["open_loop"]["horizons"] == list(diagnostics.HORIZONS)
    for kind in ("mean", "sampled"):
        curve = found["open_loop"][kind]
        assert len(curve["median"]) == 2
        for name in ("median", "p90", "column_median", "column_p90", "reward"):
            assert max(map(max, curve[name])) < 1e-4, name
        assert set(map(tuple, curve["lost"])) == {(0.0,) * 7}
    assert max(found["one_step"]["rmse_max"]) < 1e-4
    assert min(found["one_step"]["r2_median"]) > 0.9999
    assert max(found["one_step"]["reward_rmse"]) < 1e-5
    assert found["likelihood"] is None and found["calibration"] is None


def test_a_biased_model_has_the_error_of_the_closed_form(make_dataset):
    """With M the transition matrix, a bias b grows to (I + M + ... + M^(k-1)) b after k steps."""
    data = make_dataset(episodes=30, length=120)
    bias = torch.tensor([0.003, -0.002])
    found = diagnostics.measure(Linear(bias=bias.tolist()), data)
    matrix = torch.tensor([[1.0, 0.1], [-0.1, 1.0]], dtype=torch.float64)
    unit = data.transitions.obs.double().std(0, correction=0)
    expected, total, power = [], torch.zeros(2, dtype=torch.float64), torch.eye(2).double()
    for step in range(1, 101):
        total = total + power @ bias.double()
        power = matrix @ power
        if step in diagnostics.HORIZONS:
            expected.append((total / unit).square().mean().sqrt().item())
    for kind in ("mean", "sampled"):
        for name in ("median", "p90"):
            assert found["open_loop"][kind][name][0] == pytest.approx(expected, rel=1e-2)
    changes = data.transitions.next_obs - data.transitions.obs
    rest = changes[unmeasured(data)]
    one = (bias / rest.std(0, correction=0)).abs()
    assert found["one_step"]["rmse"][0] == pytest.approx(one.tolist(), rel=1e-2)
    assert found["one_step"]["rmse_max"][0] == pytest.approx(one.max().item(), rel=1e-2)


def unmeasured(data):
    """Rows outside the episodes that are measured by default."""
    from reverie.world_models.fitting import held_out_episodes, rows_of

    return ~rows_of(data, held_out_episodes(data, 100, 0))


def test_the_constant_predictor_is_off_by_how_far_the_state_moved(data):
    found = diagnostics.measure(Linear(), data, episodes=torch.tensor([4]), segments=1)
    first = found["open_loop"]["segments"]
    assert set(first) == {1}
    unit = data.transitions.obs.std(0, correction=0)
    # Whichever segment was drawn, its errors follow from the recorded states alone.
    episode = data.transitions[480:600]
    moves = [
        [
            ((episode.next_obs[t + k - 1] - episode.obs[t]) / unit).square().mean().sqrt().item()
            for k in found["open_loop"]["horizons"]
        ]
        for t in range(120 - found["open_loop"]["horizons"][-1] + 1)
    ]
    measured = found["open_loop"]["constant"]["median"][0]
    assert any(measured == pytest.approx(row, rel=1e-4) for row in moves)


def test_segments_never_cross_an_episode_or_an_unknown_successor(make_dataset):
    data = make_dataset(episodes=20, length=12)
    # The successor of each last row is unknown: what stands there must not be compared with.
    valid = data.valid_next & ~data.truncated
    after = torch.where(valid[:, None], data.transitions.next_obs, 1e6)
    data = replace(data, valid_next=valid, transitions=replace(data.transitions, next_obs=after))
    found = diagnostics.measure(Linear(), data, episodes=torch.arange(20), segments=10_000)
    assert found["open_loop"]["horizons"] == [1, 2, 5, 10]
    # Eleven usable rows each: 11, 10, 7 and 2 starts an episode.
    assert found["open_loop"]["segments"] == [220, 200, 140, 40]
    assert found["measured_on"]["rows"] == 220
    assert max(found["open_loop"]["sampled"]["p90"][0]) < 1e-4


def test_states_that_are_lost_or_not_finite_are_counted_and_plain(data):
    flung = diagnostics.measure(Linear(bias=(1e3, 0.0)), data)["open_loop"]["sampled"]
    assert set(flung["lost"][0]) == {1.0}
    broken = diagnostics.measure(Linear(bias=(math.nan, 0.0)), data)
    assert set(broken["open_loop"]["sampled"]["lost"][0]) == {1.0}
    assert set(broken["open_loop"]["sampled"]["median"][0]) == {None}
    json.dumps(broken, allow_nan=False)


def test_sampled_rollouts_show_noise_that_mean_rollouts_do_not(data):
    found = diagnostics.measure(Gaussian(0.05, noise=0.05), data)["open_loop"]
    assert max(found["mean"]["median"][0]) < 1e-4
    unit = data.transitions.obs.std(0, correction=0)
    expected = 0.05 * (1 / unit.square()).mean().sqrt().item()
    # The root mean square of two normal errors has its median at sqrt(log 2) of the scale.
    assert found["sampled"]["median"][0][0] == pytest.approx(
        expected * math.sqrt(math.log(2)), rel=0.15
    )
    assert found["sampled"]["median"][0][-1] > 5 * found["sampled"]["median"][0][0]


class Remembering(Linear):
    """Counts its steps in a hidden state and notes which counts it is given."""

    def initial_state(self, obs):
        return torch.zeros(*obs.shape[:-1], 1, dtype=torch.float64)

    def step(self, obs, action, candidates=1, state=None):
        if state is None:
            state = self.initial_state(obs)
        self.seen.append(state[..., 0].unique().tolist())
        step = super().step(obs, action, candidates)
        return replace(step, state=(state + 1).expand(candidates, *state.shape))


def test_open_loop_replay_carries_the_state_of_the_model(make_dataset):
    model = Remembering()
    model.seen = []
    diagnostics.measure(model, make_dataset(episodes=3, length=30), segments=20)
    # One step at a time from observations, then 25 steps with means, then 25 with samples.
    assert model.seen == [[0.0]] + 2 * [[float(step)] for step in range(25)]


def test_likelihood_and_calibration_of_the_true_distribution(make_dataset):
    data = make_dataset(episodes=60, length=100, noise=0.1)
    found = diagnostics.measure(Gaussian(0.1, seeds=2), data)
    rest = unmeasured(data)
    rows = data.transitions
    changes = torch.cat([rows.next_obs - rows.obs, rows.reward.unsqueeze(-1)], -1)
    centre, unit = changes[rest].mean(0), changes[rest].std(0, correction=0)
    entropy = 0.5 * math.log(2 * math.pi * math.e) + (0.1 / unit).log()
    for seed in range(2):
        assert found["likelihood"]["per_column"][seed] == pytest.approx(entropy.tolist(), abs=0.08)
        assert found["likelihood"]["member"][seed] == pytest.approx(entropy.mean().item(), abs=0.05)
        # Equal members: their mixture is each of them.
        assert found["likelihood"]["mixture"][seed] == pytest.approx(
            found["likelihood"]["member"][seed], abs=1e-4
        )
        assert found["calibration"]["z_std"][seed] == pytest.approx(1.0, abs=0.05)
        assert found["calibration"]["error"][seed] < 0.03
    z = (changes[~rest] - centre) / unit
    constant = 0.5 * math.log(2 * math.pi) + 0.5 * z.square().mean().item()
    assert found["likelihood"]["constant_gaussian"] == pytest.approx(constant, rel=1e-3)


def test_an_overconfident_model_covers_too_little(make_dataset):
    data = make_dataset(episodes=60, length=100, noise=0.1)
    found = diagnostics.measure(Gaussian(0.05), data)["calibration"]
    assert found["z_std"][0] == pytest.approx(2.0, abs=0.1)
    at = dict(zip(found["levels"], found["coverage"][0], strict=True))
    # P(|z| < 1.96 / 2) = 0.673 and P(|z| < 0.674 / 2) = 0.264.
    assert at[0.95] == pytest.approx(0.673, abs=0.03)
    assert at[0.5] == pytest.approx(0.264, abs=0.03)


def test_coverage_of_known_values():
    # 1.0 lies inside the intervals of nominal coverage above 0.683 only.
    found = calibration(torch.tensor([[[1.0], [-1.0]]]))
    assert found["coverage"][0] == [0.0] * 13 + [1.0] * 6
    assert found["z_std"] == [1.0]


def test_mixture_likelihood_is_the_mean_density_of_the_members(make_dataset):
    data = make_dataset(noise=0.1)

    class Split(Gaussian):
        def predict(self, obs, action):
            mean, std = super().predict(obs, action)
            std = std.clone()
            std[:, 1] *= 1e6  # its density is nothing: the mixture is half of the first member
            return mean, std

    one = diagnostics.measure(Gaussian(0.1), data)["likelihood"]["mixture"][0]
    half = diagnostics.measure(Split(0.1), data)["likelihood"]["mixture"][0]
    assert half == pytest.approx(one + math.log(2) / 3, abs=1e-3)


def test_disagreement_of_members_counts_as_spread(make_dataset):
    data = make_dataset(noise=0.1)

    class Opposed(Gaussian):
        def predict(self, obs, action):
            mean, std = super().predict(obs, action)
            return mean + torch.tensor([0.1, -0.1]).view(1, 2, 1, 1), std

    # Variance of the mixture: 0.01^2 of each member plus 0.1^2 between them, as the noise has.
    found = diagnostics.measure(Opposed(0.01), data, episodes=torch.arange(20))
    assert found["calibration"]["z_std"][0] == pytest.approx(1.0, abs=0.05)


def test_constant_columns_have_no_unit_and_are_left_out(make_dataset):
    data = make_dataset()

    def pinned(values):
        return torch.stack([values[:, 0] * 0 + 3.0, values[:, 1]], -1)

    rows = data.transitions
    rows = replace(rows, obs=pinned(rows.obs), next_obs=pinned(rows.next_obs))
    found = diagnostics.measure(Linear(), replace(data, transitions=rows))
    assert found["one_step"]["rmse"][0][0] is None
    assert found["one_step"]["rmse"][0][1] is not None
    assert found["one_step"]["rmse_max"][0] == found["one_step"]["rmse"][0][1]
    assert all(value is not None for value in found["open_loop"]["sampled"]["median"][0])


def test_held_out_episodes_of_the_model_are_used(data):
    class Keeping(Linear):
        def held_out(self, data):
            return torch.tensor([7, 9])

    found = diagnostics.measure(Keeping(), data)
    assert found["measured_on"] == {"held_out": True, "episodes": 2, "rows": 240}


def test_one_episode_is_enough(make_dataset):
    found = diagnostics.measure(Linear(), make_dataset(episodes=1, length=30))
    assert found["measured_on"]["episodes"] == 1 and not found["measured_on"]["held_out"]


def test_episodes_without_any_known_successor_are_refused(make_dataset):
    data = make_dataset()
    data = replace(data, valid_next=torch.zeros_like(data.valid_next))
    with pytest.raises(ValueError, match="known next observation"):
        diagnostics.measure(Linear(), data)


def test_announced_terminations_are_scored(make_dataset):
    data = make_dataset(terminal_above=1.5)
    exact = diagnostics.measure(Linear(threshold=1.5), data, episodes=torch.arange(20))["flags"]
    assert exact["true"] == int(data.transitions.terminated.sum())
    assert exact["precision"] == [1.0] and exact["recall"] == [1.0]
    silent = diagnostics.measure(Linear(), data, episodes=torch.arange(20))["flags"]
    assert silent["precision"] == [None] and silent["recall"] == [0.0]


def test_precision_and_recall_by_hand():
    said = torch.tensor([[True, True, False, False], [True, True, True, False]])
    true = torch.tensor([True, False, False, True])
    found = precision_and_recall(said, true)
    assert found["true"] == 2
    assert found["precision"] == pytest.approx([0.5, 1 / 3])
    assert found["recall"] == [0.5, 0.5]


def test_ranks_share_their_mean_among_equals():
    assert ranks(torch.tensor([[3.0, 1.0, 3.0, 2.0]])).tolist() == [[2.5, 0.0, 2.5, 1.0]]


def test_spearman_sees_order_and_nothing_else():
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]])
    y = torch.tensor([[1.0, 8.0, 9.0, 99.0], [4.0, 3.0, 2.0, 1.0], [5.0, 5.0, 5.0, 5.0]])
    assert plain(spearman(x, y)) == [pytest.approx(1.0), pytest.approx(-1.0), None]
    # d = (0, 1, 1, 0): 1 - 6 * 2 / (4 * 15).
    assert spearman(x[:1], torch.tensor([[1.0, 3.0, 2.0, 4.0]])).item() == pytest.approx(0.8)


def test_auroc_of_perfect_useless_and_inverted_scores():
    error = torch.arange(20.0).expand(3, -1)
    score = torch.stack([error[0], torch.zeros(20), -error[0]])
    assert auroc(score, error).tolist() == [1.0, 0.5, 0.0]


def test_auroc_asks_for_the_worst_tenth():
    error = torch.arange(20.0).unsqueeze(0)
    assert auroc((error >= 18).float(), error).item() == 1.0
    # One of the two worst is found, beside one of eighteen others: (17.5 + 8.5) / 36.
    score = (error == 19).float() + (error == 0).float()
    assert auroc(score, error).item() == pytest.approx(26 / 36)


def test_quantiles_stay_defined_with_infinite_errors():
    values = torch.tensor([[1.0, 2.0, 3.0, torch.inf]])
    assert quantile(values, 0.5).item() == 2.0
    assert quantile(values, 0.75).item() == 3.0
    assert quantile(values, 0.9).item() == math.inf


@pytest.mark.pictures
def test_the_result_of_an_ensemble_is_plain_and_can_be_drawn(make_ensemble, make_dataset, tmp_path):
    data = make_dataset(noise=0.05, terminal_above=1.5)
    model = make_ensemble(seeds=2, termination="learned", heldout_episodes=2)
    described = model.fit(data)
    state = torch.get_rng_state()
    found = {**described, **diagnostics.measure(model, data, segments=20)}
    assert found["measured_on"]["held_out"] and found["measured_on"]["episodes"] == 2
    assert not torch.equal(torch.get_rng_state(), state)  # the global stream, as documented
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    path = tmp_path / "world_model.png"
    diagnostics.plot(found, path)
    assert path.read_bytes().startswith(b"\x89PNG") and list(tmp_path.iterdir()) == [path]
    # What a model without a fit or a distribution has to show.
    diagnostics.plot(diagnostics.measure(Linear(), data), path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.pictures
def test_a_failed_drawing_leaves_the_earlier_one(data, tmp_path, monkeypatch):
    path = tmp_path / "world_model.png"
    path.write_bytes(b"earlier")

    def full_disk(self, target, **settings):
        target.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(diagnostics.Figure, "savefig", full_disk)
    with pytest.raises(Mistake, match="No space"):
        diagnostics.plot(diagnostics.measure(Linear(), data), path)
    assert path.read_bytes() == b"earlier" and list(tmp_path.iterdir()) == [path]


@pytest.mark.pictures
def test_named_columns_are_measured_and_drawn_by_name(data, tmp_path):
    named = replace(data, spec=replace(data.spec, obs_names=("level [$]", "speed")))
    found = diagnostics.measure(Linear(), named)
    assert found["columns"] == ["level [$]", "speed"]
    diagnostics.plot(found, tmp_path / "named.png")
    assert (tmp_path / "named.png").stat().st_size > 10_000
    assert "columns" not in diagnostics.measure(Linear(), data)


def test_the_valid_prediction_time_counts_short_segments_as_far_as_they_go():
    """Product-limit estimate by hand; values behind the end of a segment are never looked at."""
    nan, inf = float("nan"), float("inf")
    errors = torch.tensor(
        [
            [0.1, 0.2, 0.5, 0.1],  # over at 3, once is enough
            [0.1, 9.0, 9.0, 9.0],  # ends after 1: nobody knows
            [0.1, 0.4, 0.4, inf],  # the threshold itself is valid; over at 4
            [nan, 0.1, 0.1, 0.1],  # over at 1
        ]
    )
    lengths = torch.tensor([4, 1, 4, 4])
    # Valid after 1: 3/4; after 2: 3/4 (two at risk, none over); after 3: 3/8.
    assert valid_steps(errors.unsqueeze(0), lengths, 0.4).tolist() == [3.0]
    # Seeds by themselves; where half stay valid, all the way.
    both = torch.stack([errors, torch.full_like(errors, 0.1)])
    assert valid_steps(both, lengths, 0.4).tolist() == [3.0, 4.0]


def test_the_diagnostics_tell_when_a_bias_leaves_the_valid_range(make_dataset):
    data = make_dataset(episodes=30, length=120)
    found = diagnostics.measure(Linear(bias=[0.05, 0.0]), data)["open_loop"]
    valid = int(found["mean"]["valid_steps"][0])
    near = max(k for k in diagnostics.HORIZONS if k < valid)
    far = min(k for k in diagnostics.HORIZONS if k >= valid)
    medians = dict(zip(found["horizons"], found["mean"]["median"][0], strict=True))
    assert medians[near] <= diagnostics.VALID < medians[far]
    exact = diagnostics.measure(Linear(), data)["open_loop"]
    assert exact["mean"]["valid_steps"] == [100.0]
