"""Known, learned and absent terminations, and how one is chosen."""

import logging
from dataclasses import replace
from functools import partial

import pytest
import torch

from reverie.mistake import Mistake
from reverie.world_models.termination import (
    KnownTermination,
    LearnedTermination,
    NeverTermination,
    resolve,
)

HEAD = {
    "hidden": [16],
    "activation": "tanh",
    "learning_rate": 1e-2,
    "batch": 64,
    "updates": 400,
}


def head(spec, **changes):
    return LearnedTermination(spec=spec, **({"seeds": 1} | HEAD | changes))


def everything(data):
    return torch.ones(len(data), dtype=torch.bool)


def hopper(toy_spec):
    return replace(
        toy_spec,
        env_id="Hopper-v4",
        obs_dim=11,
        action_dim=3,
        action_low=(-1.0,) * 3,
        action_high=(1.0,) * 3,
    )


def test_auto_takes_the_rule_of_a_known_task_and_learns_elsewhere(toy_spec):
    learned = partial(head, toy_spec)
    assert isinstance(resolve("auto", hopper(toy_spec), learned), KnownTermination)
    assert isinstance(resolve("auto", toy_spec, learned), LearnedTermination)
    similar = replace(hopper(toy_spec), env_id="MyHopper-v4")
    assert isinstance(resolve("auto", similar, learned), LearnedTermination)


def test_explicit_choices_are_obeyed(toy_spec):
    learned = partial(head, toy_spec)
    assert isinstance(resolve("learned", hopper(toy_spec), learned), LearnedTermination)
    assert isinstance(resolve("none", hopper(toy_spec), learned), NeverTermination)
    assert isinstance(resolve("known", hopper(toy_spec), learned), KnownTermination)


def test_known_without_a_rule_says_what_to_do(toy_spec):
    with pytest.raises(ValueError, match=r"None.*learned, or none.*envs/termination.py"):
        resolve("known", toy_spec, partial(head, toy_spec))


def test_an_unknown_choice_lists_the_known_ones(toy_spec):
    with pytest.raises(ValueError, match="auto"):
        resolve("maybe", toy_spec, partial(head, toy_spec))


def test_a_known_rule_judges_every_candidate_in_raw_units(toy_spec):
    rule = resolve("known", hopper(toy_spec), partial(head, toy_spec))
    next_obs = torch.zeros(2, 1, 3, 11)
    next_obs[..., 0] = 1.2  # a standing hopper
    next_obs[1, 0, 2, 1] = 0.25  # tilted
    next_obs[0, 0, 1, 0] = 0.6  # fallen
    ended = rule(torch.zeros_like(next_obs), torch.zeros(2, 1, 3, 3), next_obs)
    expected = torch.zeros(2, 1, 3, dtype=torch.bool)
    expected[1, 0, 2] = expected[0, 0, 1] = True
    assert torch.equal(ended, expected)


def test_a_known_rule_that_contradicts_the_data_is_reported(make_dataset, caplog):
    data = make_dataset(terminal_above=1.5)
    rule = KnownTermination(lambda obs, action, next_obs: next_obs[..., 0] > 1.5)
    with caplog.at_level(logging.WARNING):
        assert rule.fit(data, everything(data))["disagreement"] == 0.0
        assert not caplog.records
        wrong = KnownTermination(lambda obs, action, next_obs: next_obs[..., 0] > 1.0)
        share = wrong.fit(data, everything(data))["disagreement"]
    moved = data.transitions.next_obs[:, 0]
    assert share == pytest.approx(((moved > 1.0) & (moved <= 1.5)).float().mean().item())
    assert "contradicts" in caplog.text


def test_never_never_ends_and_says_so_when_the_data_do(make_dataset, caplog):
    never = NeverTermination()
    ended = never(torch.zeros(3, 2, 5, 2), torch.zeros(3, 2, 5, 1), torch.zeros(3, 2, 5, 2))
    assert ended.shape == (3, 2, 5) and not ended.any()
    data = make_dataset(terminal_above=1.5)
    with caplog.at_level(logging.WARNING):
        count = never.fit(data, everything(data))["terminals"]
    assert count == int(data.transitions.terminated.sum()) > 0
    assert "run through them" in caplog.text


def test_a_learned_rule_finds_a_threshold(make_dataset, toy_spec):
    data = make_dataset(noise=0.1, terminal_above=1.5)
    share = data.transitions.terminated.float().mean()
    assert 0.01 < share < 0.2
    learned = head(toy_spec, seeds=2, updates=1500)
    described = learned.fit(data, everything(data))
    torch.testing.assert_close(learned.obs_mean, data.transitions.obs.mean(0))
    torch.testing.assert_close(learned.obs_std, data.transitions.obs.std(0, correction=0))
    assert min(described["precision"]) > 0.9 and min(described["recall"]) > 0.9
    fresh = make_dataset(noise=0.1, terminal_above=1.5, seed=1).transitions
    columns = (fresh.obs, fresh.action, fresh.next_obs)
    said = learned(*(x.expand(1, 2, *x.shape) for x in columns))[0]
    # Wrong only close to the threshold.
    far = (fresh.next_obs[:, 0] - 1.5).abs() > 0.3
    assert (said[:, far] == fresh.terminated[far]).float().mean() > 0.995


def test_a_learned_rule_is_not_fooled_by_how_rare_terminations_are(toy_spec, make_dataset):
    """Terminations drawn at random, 5 %, independent of the input: nothing should end."""
    data = make_dataset()
    flags = torch.rand(len(data), generator=torch.Generator().manual_seed(0)) < 0.05
    data = replace(data, transitions=replace(data.transitions, terminated=flags))
    learned = head(toy_spec, updates=100, learning_rate=1e-3)
    described = learned.fit(data, everything(data))
    # Without the correction by the odds of the data about half of all rows would end.
    assert described["terminals"] == int(flags.sum()) and described["recall"][0] < 0.1


def test_candidates_are_judged_in_place(toy_spec, make_dataset):
    learned = head(toy_spec, seeds=2)
    learned.fit(make_dataset(noise=0.1, terminal_above=1.0), torch.ones(1000, dtype=torch.bool))
    obs, action, after = torch.randn(3, 2, 5, 2), torch.rand(3, 2, 5, 1), torch.randn(3, 2, 5, 2)
    whole = learned(obs, action, after)
    assert whole.any() and not whole.all()
    for k in range(3):
        alone = learned(obs[k : k + 1], action[k : k + 1], after[k : k + 1])
        assert torch.equal(alone[0], whole[k])


def test_without_any_termination_the_learned_rule_says_never(toy_spec, make_dataset, caplog):
    learned = head(toy_spec)
    data = make_dataset()
    with caplog.at_level(logging.INFO):
        described = learned.fit(data, everything(data))
    assert described["terminals"] == 0 and "says never" in caplog.text
    some = torch.randn(2, 1, 50, 2) * 100
    assert not learned(some, torch.zeros(2, 1, 50, 1), some).any()


def test_with_terminations_only_the_learned_rule_says_always(toy_spec, make_dataset, caplog):
    learned = head(toy_spec)
    data = make_dataset()
    flags = torch.ones(len(data), dtype=torch.bool)
    data = replace(data, transitions=replace(data.transitions, terminated=flags))
    with caplog.at_level(logging.INFO):
        learned.fit(data, everything(data))
    assert "says always" in caplog.text
    assert learned(*(torch.zeros(1, 1, 4, w) for w in (2, 1, 2))).all()


def test_without_true_next_observations_only_obs_and_action_decide(toy_spec, make_dataset, caplog):
    data = make_dataset()
    ended = data.transitions.obs[:, 0] > 1.0
    after = torch.where(ended[:, None], data.transitions.obs, data.transitions.next_obs)
    data = replace(
        data,
        transitions=replace(data.transitions, terminated=ended, next_obs=after),
        valid_next=~ended,
    )
    learned = head(toy_spec, updates=1000)
    with caplog.at_level(logging.WARNING):
        described = learned.fit(data, everything(data))
    assert described["sees_next_obs"] is False and "obs and action only" in caplog.text
    assert described["precision"][0] > 0.9 and described["recall"][0] > 0.9
    obs, action = torch.randn(1, 1, 50, 2), torch.rand(1, 1, 50, 1)
    here, far = (learned(obs, action, obs + shift) for shift in (0.0, 100.0))
    assert torch.equal(here, far)


def test_rows_without_a_next_observation_are_left_out_where_others_have_one(toy_spec, make_dataset):
    data = make_dataset(noise=0.1, terminal_above=1.5)
    valid = data.valid_next.clone()
    valid[::3] = False
    broken = torch.where(valid[:, None], data.transitions.next_obs, torch.nan)
    data = replace(data, valid_next=valid, transitions=replace(data.transitions, next_obs=broken))
    learned = head(toy_spec, updates=20)
    described = learned.fit(data, everything(data))
    assert described["rows"] == int(valid.sum()) and described["sees_next_obs"] is True


def test_seeds_of_the_learned_rule_stay_apart(toy_spec, make_dataset):
    data = make_dataset(noise=0.1, terminal_above=1.5)
    heads = []
    for poison in (False, True):
        torch.manual_seed(0)
        learned = head(toy_spec, seeds=2, updates=30)
        learned.reset = lambda: None  # from the present weights
        if poison:
            learned.network.layers[0].weight[1] = torch.nan
            with pytest.raises(Mistake, match=r"seeds \[1\] diverged"):
                learned.fit(data, everything(data))
        else:
            learned.fit(data, everything(data))
        heads.append(learned)
    for a, b in zip(heads[0].parameters(), heads[1].parameters(), strict=True):
        assert torch.equal(a[0], b[0])


def test_a_batch_that_cannot_be_halved_is_refused(toy_spec):
    with pytest.raises(ValueError, match="even batch"):
        head(toy_spec, batch=63)
