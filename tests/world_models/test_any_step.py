"""Any-step dynamics: windows, the queue of pasts, agreement of jumps, fits that are killed."""

import copy
from dataclasses import replace

import pytest
import torch
from hydra.utils import instantiate

from reverie.datasets import stack
from reverie.datasets.dataset import Dataset
from reverie.mistake import Mistake
from reverie.training.launch.options import read_option
from reverie.world_models import diagnostics
from reverie.world_models.any_step import Answers, AnyStep
from reverie.world_models.measures import spearman
from reverie.world_models.uncertainty import recorded_uncertainty
from reverie.world_models.windows import holdout_rows, windows

SMALL = {
    "backtrack": 3,
    "width": 8,
    "layers": 2,
    "blocks": 1,
    "learning_rate": 1e-2,
    "batch": 32,
    "max_epochs": 3,
    "termination": "none",
    "heldout_episodes": 0,
}


def any_step(spec, seeds: int = 1, seed: int = 0, **changes) -> AnyStep:
    settings = read_option("world_model/any_step") | SMALL | changes
    settings.pop("path")
    return instantiate(settings)(spec=spec, seeds=seeds, seed=seed)


def numbered(lengths, **columns) -> Dataset:
    """Episodes of the toy task whose obs counts the rows, so that a window shows what it holds."""
    from tests.world_models.conftest import dataset

    count = sum(lengths)
    base = dataset(episodes=1, length=count)
    number = torch.arange(count).float()
    starts = torch.tensor([0, *lengths[:-1]]).cumsum(0)
    transitions = replace(
        base.transitions,
        obs=torch.stack([number, number], -1),
        next_obs=torch.stack([number, number], -1) + 1,
        terminated=columns.pop("terminated", torch.zeros(count, dtype=torch.bool)),
    )
    return replace(base, transitions=transitions, episode_starts=starts, **columns)


@pytest.fixture
def data(make_dataset):
    return make_dataset(episodes=10, length=20)


def begun(found, k):
    """Where windows of k steps begin, ascending."""
    return found.starts[: found.counts[k - 1]].sort().values.tolist()


def test_windows_cross_no_end_and_hold_nothing_that_is_unknown():
    terminated = torch.zeros(12, dtype=torch.bool)
    terminated[2] = True  # in the midst of the first episode
    known = torch.ones(12, dtype=torch.bool)
    known[6] = False  # the last row of the second
    known[9] = False
    data = numbered([5, 2, 5], terminated=terminated, valid_next=known)
    found = windows(data, torch.ones(12, dtype=torch.bool), 3)
    assert begun(found, 1) == [0, 1, 2, 3, 4, 5, 7, 8, 10, 11]
    assert begun(found, 2) == [0, 1, 3, 7, 10]
    assert begun(found, 3) == [0]
    # Rows that a fit may not see are no part of a window either.
    seen = torch.ones(12, dtype=torch.bool)
    seen[1] = False
    assert begun(windows(data, seen, 3), 2) == [3, 7, 10]


def test_the_holdout_is_whole_episodes_and_the_end_of_a_single_one():
    data = numbered([4] * 10)
    chosen = holdout_rows(data, torch.arange(40) >= 8, 0.25, seed=3)
    by_episode = chosen.view(10, 4)
    assert by_episode.any(1).equal(by_episode.all(1)) and by_episode[:, 0].sum() == 2
    assert not chosen[:8].any()
    # Those made of one recorded episode go together.
    doubled = replace(data, recorded_episodes=torch.arange(10) // 2)
    of_two = holdout_rows(doubled, torch.ones(40, dtype=torch.bool), 0.2, seed=3).view(5, 8)
    assert of_two.any(1).equal(of_two.all(1)) and of_two.any(1).sum() == 1
    alone = holdout_rows(numbered([10]), torch.ones(10, dtype=torch.bool), 0.2, seed=0)
    assert alone.nonzero().flatten().tolist() == [8, 9]


def test_the_queue_holds_the_latest_pairs_in_order(toy_spec, monkeypatch):
    """m = 3, by hand: rows of two numbers and an action, the second step after the third."""
    model = any_step(toy_spec, seeds=1)
    model.ready = True
    obs = [torch.full((1, 1, 2), float(t)) for t in range(5)]
    action = [torch.full((1, 1, 1), 0.1 * t) for t in range(5)]
    state = model.initial_state(obs[0])
    assert state.tolist() == [[[0.0] * 6 + [1.0]]]
    expected = [
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0],
        [0.0, 0.0, 0.0, 1.0, 1.0, 0.1, 3.0],
        [1.0, 1.0, 0.1, 2.0, 2.0, 0.2, 3.0],
    ]
    for t in range(3):
        state = model.step(obs[t], action[t], 1, state).state[0]
        torch.testing.assert_close(state.flatten(), torch.tensor(expected[t]))

    # A network that says which inputs reached it, in order: jumps over 3, 2 and 1 steps.
    read = []

    def spy(sequence, dropout):
        read.extend(each[0].tolist() for each in sequence)
        rows = sequence[-1].shape[-2]
        return torch.zeros(1, rows, 3), torch.zeros(1, rows, 3)

    monkeypatch.setattr(model.network, "forward", spy)
    found = model.answers(obs[3], action[3], state)
    torch.testing.assert_close(torch.tensor(read[0]), torch.tensor([[1.0, 1.0, 0.1]]))
    torch.testing.assert_close(
        torch.tensor(read[1]), torch.tensor([[1.0, 1.0, 0.2], [2.0, 2.0, 0.2]])
    )
    torch.testing.assert_close(
        torch.tensor(read[2]), torch.tensor([[1.0, 1.0, 0.3], [2.0, 2.0, 0.3], [3.0, 3.0, 0.3]])
    )
    # No change was predicted: each jump ends in the state where it began.
    assert found.mean[0, :, 0, 0].tolist() == [1.0, 2.0, 3.0] and bool(found.known.all())


def test_one_pass_answers_as_a_sequence_for_each_jump_would(toy_spec):
    model = any_step(toy_spec, seeds=2)
    model.ready = True
    obs, action = torch.randn(2, 5, 2), torch.rand(2, 5, 1)
    pairs = torch.randn(2, 5, 2, 3)
    state = torch.cat([pairs.flatten(2), torch.full((2, 5, 1), 3.0)], -1)
    found = model.answers(obs, action, state)
    states = torch.cat([pairs[..., :2], obs.unsqueeze(2)], 2)
    actions = torch.cat([pairs[..., 2:], action.unsqueeze(2)], 2)
    for k in (1, 2, 3):
        start = states[:, :, 3 - k]
        mean, std = model.network([torch.cat([start, a], -1) for a in actions.unbind(2)[3 - k :]])
        torch.testing.assert_close(found.mean[:, 3 - k, :, :2], start + mean[..., :2])
        torch.testing.assert_close(found.mean[:, 3 - k, :, 2], mean[..., 2])
        torch.testing.assert_close(found.std[:, 3 - k], std)


def test_mean_and_spread_are_over_the_jumps_there_are():
    mean = torch.tensor([7.0, 1.0, 4.0]).view(1, 3, 1, 1)
    known = torch.tensor([False, True, True]).view(1, 3, 1)
    found = Answers(mean, torch.ones_like(mean), known)
    assert found.average().item() == 2.5 and found.spread().item() == 2.25


def test_jumps_are_drawn_evenly_from_those_that_a_rollout_is_old_enough_for(toy_spec):
    model = any_step(toy_spec)
    model.ready = True
    obs, action = torch.randn(1, 1, 2), torch.rand(1, 1, 1)
    pairs, length = torch.randn(1, 1, 6), torch.tensor([[[2.0]]])
    state = torch.cat([pairs, length], -1)
    model.network.low.fill_(-60.0)
    model.network.high.fill_(-60.0)  # no noise: an outcome is the mean of its jump
    found = model.answers(obs, action, state)
    drawn = model.step(obs, action, 4000, state).next_obs[:, 0, 0, 0]
    apart = (drawn.unsqueeze(1) - found.mean[0, :, 0, 0]).abs()
    nearest = apart.argmin(1)
    assert apart.gather(1, nearest.unsqueeze(1)).max() < 1e-4
    # jumps over 3, 2 and 1 steps; the standard deviation of a count is 32
    counts = nearest.bincount(minlength=3)
    assert counts[0] == 0 and abs(int(counts[1]) - 2000) < 160
    expected = model.expect(obs, action, 2, state)
    torch.testing.assert_close(expected.next_obs[1, 0, 0], found.mean[0, 1:, 0, :2].mean(0))
    wanted = (found.mean[0, 1:, 0, :2].var(0, correction=0)).mean().sqrt()
    torch.testing.assert_close(expected.uncertainty[0, 0], wanted)  # units are one before a fit
    assert model.expect(obs, action).uncertainty.item() == 0.0  # at a start, of one jump


@pytest.mark.slow
def test_a_linear_system_is_learned_and_all_jumps_agree(toy_spec, make_dataset):
    data = make_dataset(episodes=20, length=25)
    linear = replace(data.transitions, reward=data.transitions.obs[:, 0])
    data = replace(data, transitions=linear)
    model = any_step(
        toy_spec,
        **{"width": 32, "layers": 1, "blocks": 0, "dropout": 0.0, "batch": 100},
        **{"max_epochs": 250, "learning_rate": 5e-3, "patience": 100},
    )
    assert model.fit(data)["best_loss"][0] < 1e-3  # of a variance
    rows = torch.arange(len(data))
    rows = rows[rows % 25 >= 2]
    seen, past = data.transitions[rows], model.recorded_state(data, rows)
    found = model.step(seen.obs[None], seen.action[None], 1, past[None])
    assert found.uncertainty.median() < 1e-2

    # Beyond the data it is the more unsure, the more it errs.
    torch.manual_seed(0)
    obs = 4 * torch.randn(1, 300, 2)
    state = model.initial_state(obs)
    for _ in range(3):
        action = torch.rand(1, 300, 1) * 2 - 1
        told = model.expect(obs, action, 1, state)
        drift = [0.1 * obs[..., 1], 0.2 * action[..., 0] - 0.1 * obs[..., 0]]
        obs, state = obs + torch.stack(drift, -1), told.state[0]
    error = (told.next_obs[0] - obs).norm(dim=-1)
    assert spearman(told.uncertainty, error).item() > 0.5


def test_a_fit_learns_and_keeps_the_best_weights(toy_spec, data):
    model = any_step(toy_spec, seeds=2, max_epochs=8)
    described = model.fit(data)
    for lane, curve in enumerate(described["holdout_loss"]):
        assert described["best_loss"][lane] == min(curve) < 0.5 * curve[0]
        error = torch.tensor(described["jump_error"][lane]).square().mean().item()
        assert error == pytest.approx(min(curve), rel=1e-4)
    assert described["windows"][0] > described["windows"][2] > 0


def test_a_seed_does_not_depend_on_the_others(toy_spec, data):
    def fitted(poison):
        model = any_step(toy_spec, seeds=2, dropout=0.1)
        if poison:
            inner = model.network.loss

            def loss(sequence, target):
                target = target.clone()
                target[1] = 7.0 * target[1]
                return inner(sequence, target)

            model.network.loss = loss
        model.fit(data)
        return model.state_dict()

    clean, poisoned = fitted(False), fitted(True)
    own = [name for name, each in clean.items() if each.ndim == 3]
    assert all(torch.equal(clean[name][0], poisoned[name][0]) for name in own)
    assert not all(torch.equal(clean[name][1], poisoned[name][1]) for name in own)


def test_a_killed_fit_goes_on_to_the_same_bits(toy_spec, data):
    changes = {"seeds": 2, "max_epochs": 7, "checkpoint_every": 2, "dropout": 0.1}
    whole = any_step(toy_spec, **changes)
    described = whole.fit(data)
    kept = []

    def killed(done, loss):
        if done == 5:
            raise KeyboardInterrupt

    first = any_step(toy_spec, **changes)
    first.keep_partial_fits(lambda: None, lambda state: kept.append(copy.deepcopy(state)))
    with pytest.raises(KeyboardInterrupt):
        first.fit(data, killed)
    assert len(kept) == 2
    second, seen = any_step(toy_spec, **changes), []
    second.keep_partial_fits(lambda: kept[-1], kept.append)
    assert second.fit(data, lambda done, loss: seen.append(done)) == described
    assert second.fit_first == 4 and seen == [4, 5, 6, 7]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_a_seed_that_has_stopped_keeps_its_weights(toy_spec, data):
    """Losses that only fall in one lane: the other stops after its patience, at its best."""
    model = any_step(toy_spec, seeds=2, patience=2, max_epochs=5)
    network, epochs = model.network, []
    first_weights = []

    def errors(sequence, target):
        epochs.append(1)
        epoch = (len(epochs) + 2) // 3  # three lengths an epoch
        if epoch == 1 and not first_weights:
            first_weights.extend(network.snapshot())
        return torch.tensor([1.0 + epoch, 10.0 - epoch])

    network.errors = errors
    described = model.fit(data)
    assert described["epochs"] == [3, 5] and described["best_loss"] == [2.0, 5.0]
    for name, then in zip(network.parameters(), first_weights, strict=True):
        assert torch.equal(name[0], then[0])


def test_the_past_of_recorded_rows_is_what_a_rollout_would_carry(toy_spec, make_dataset):
    data = make_dataset(episodes=3, length=6)
    model = any_step(toy_spec)
    model.ready = True
    rows = data.transitions[:6]
    state = model.initial_state(rows.obs[None, :1])
    for t in range(6):
        found = model.recorded_state(data, torch.tensor([t, 6 + t]))
        torch.testing.assert_close(found[0], state[0, 0])
        assert found[1, -1] == min(t + 1, 3)
        state = model.step(rows.obs[None, t : t + 1], rows.action[None, t : t + 1], 1, state).state[
            0
        ]
    found = recorded_uncertainty(model, data, 1).view(3, 6)
    assert (found[:, 0] == 0).all() and (found[:, 1:] > 0).all()


def test_open_loop_errors_are_those_of_expected_rollouts_with_their_past(toy_spec, make_dataset):
    data = make_dataset(episodes=20, length=10)
    model = any_step(toy_spec, heldout_episodes=2)
    model.fit(data)
    episodes = model.held_out(data)
    measured = diagnostics.measure(model, data, episodes=episodes, segments=1, seed=1)
    once = diagnostics.measure(model, data, episodes=episodes, segments=1, seed=1)
    assert measured["open_loop"]["mean"] == once["open_loop"]["mean"]  # no noise in it
    model.expect = None  # which nothing but expectations asks
    with pytest.raises(TypeError):
        diagnostics.measure(model, data, episodes=episodes, segments=1, seed=1)
    assert measured["likelihood"] is not None and measured["uncertainty"]["spearman"][0] is not None


def test_exogenous_observations_drive_every_step_and_are_not_predicted(toy_spec, data):
    spec = replace(toy_spec, exogenous=(1,))
    data = replace(data, spec=spec)
    model = any_step(spec)
    model.fit(data)
    assert model.network.learned.tolist() == [0, 2]
    assert model.signature() != any_step(toy_spec).signature()
    obs, action = torch.randn(1, 4, 2), torch.rand(1, 4, 1)
    first = model.step(obs, action)
    assert torch.equal(first.next_obs[0, ..., 1], obs[..., 1])
    now = obs + 1
    second = model.step(now, action, 3, first.state[0])
    assert torch.equal(second.next_obs[..., 1], now[..., 1].expand(3, -1, -1))
    moved = first.state[0].clone()
    moved[..., -3] += 1.0  # the exogenous column of the pair before
    other = model.answers(now, action, moved).mean
    same = model.answers(now, action, first.state[0]).mean
    assert not torch.equal(other[:, 1, :, 0], same[:, 1, :, 0])
    assert torch.equal(other[:, 2], same[:, 2])
    # And the record is replayed, its rows beside the queue.
    model.replay_exogenous(data)
    start = data.transitions.obs[None, :3]
    state = model.begin(start)
    step = model.advance(start, data.transitions.action[None, :3], 1, state)
    assert torch.equal(step.next_obs[0, 0, :, 1], data.transitions.next_obs[:3, 1])
    assert step.state[0, 0, :, -1].tolist() == [1.0, 2.0, 3.0]
    assert step.state[0, 0, :, -2].tolist() == [2.0] * 3


def test_one_model_may_serve_all_seeds(toy_spec, data):
    model = any_step(toy_spec, seeds=3, per_seed=False)
    described = model.fit(data)
    assert len(described["epochs"]) == 1
    obs, action = torch.randn(3, 4, 2), torch.rand(3, 4, 1)
    step = model.step(obs, action, 2)
    step = model.step(step.next_obs[0], action, 2, step.state[0])
    assert step.uncertainty.shape == (3, 4) and step.next_obs.shape == (2, 3, 4, 2)
    mean, std = model.predict(obs, action)
    assert mean.shape == std.shape == (3, 1, 4, 3)


def test_many_rows_are_answered_by_blocks(toy_spec, monkeypatch):
    model = any_step(toy_spec)
    model.ready = True
    obs, action, state = torch.randn(1, 10, 2), torch.rand(1, 10, 1), torch.rand(1, 10, 7) * 3
    whole = model.answers(obs, action, state)
    monkeypatch.setattr("reverie.world_models.any_step._BLOCK", 3)
    for one, other in zip(whole, model.answers(obs, action, state), strict=True):
        torch.testing.assert_close(one, other)


def test_what_cannot_be_fitted_or_stepped_says_why(toy_spec, make_dataset):
    with pytest.raises(Mistake, match=r"no 3 consecutive rows.* longest stretch has 2.*backtrack"):
        any_step(toy_spec).fit(make_dataset(episodes=10, length=2))
    with pytest.raises(RuntimeError, match="not fitted"):
        any_step(toy_spec).step(torch.zeros(1, 1, 2), torch.zeros(1, 1, 1))
    with pytest.raises(Mistake, match="not fitted again"):
        any_step(toy_spec).require_refit()
    model = any_step(toy_spec)
    model.network.errors = lambda sequence, target: torch.tensor([float("nan")])
    with pytest.raises(Mistake, match="holdout error of the world model was not finite: seed 0"):
        model.fit(make_dataset(episodes=10, length=5))
    assert not model.ready


def test_the_past_of_a_history_is_copied(data):
    histories = stack(data, 3)
    spec, rows = histories.spec, histories.transitions
    model = any_step(spec, seeds=2)
    model.fit(histories)
    obs, action = rows.obs[:7].expand(2, -1, -1), rows.action[:7].expand(2, -1, -1)
    columns, sources = map(list, zip(*spec.copies, strict=True))
    known = torch.cat([obs, action], -1)[..., sources]
    for outcome in (model.step(obs, action, 4).next_obs, model.expect(obs, action).next_obs):
        assert torch.equal(outcome[..., columns], known.expand(len(outcome), -1, -1, -1))
    assert torch.equal(model.predict(obs, action)[0][:, 0, :, columns], known)
