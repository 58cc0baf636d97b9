"""What other libraries hold that would be read as something else; each is refused in one line."""

from types import SimpleNamespace

import numpy as np
import pytest

from reverie.datasets import (
    from_cleanrl,
    from_d3rlpy,
    from_imitation,
    from_padded,
    from_sb3,
    load,
)
from reverie.mistake import Mistake
from tests.datasets.libraries import (
    BOX,
    RingBuffer,
    d3rlpy_episodes,
    padded,
    recorded,
    trajectories,
)

LENGTHS = [2, 4, 3, 4]


def refused(match, call, *given, **settings):
    with pytest.raises(Mistake, match=match) as caught:
        call(*given, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "lengths", "message"),
    [
        ({}, np.array([2.5, 4, 3, 4]), "lengths must be 4 whole numbers"),
        ({}, np.array([np.nan, 4, 3, 4]), "lengths must be 4 whole numbers"),
        ({}, np.array(["2", "4", "3", "4"]), "lengths must be 4 whole numbers"),
        ({}, [True] * 4, "lengths must be 4 whole numbers"),
        ({"rewards": [[1], [2, 3]]}, LENGTHS, "rewards is no array of numbers"),
        ({"terminals": np.array([2, 0, 1, 0])}, LENGTHS, "terminals must hold only 0 and 1"),
        ({"terminals": np.array([np.nan, 0, 1, 0])}, LENGTHS, "terminals must hold only 0 and 1"),
        ({"terminals": np.array(["0"] * 4)}, LENGTHS, "terminals must hold only 0 and 1"),
        ({"terminals": np.ones((4, 1))}, LENGTHS, r"have terminals \[4, 1\], expected 4 episodes"),
        ({"timeouts": np.eye(4)[[0, 1, 2, 3]]}, LENGTHS, "episode 0 has timeouts in step 0 of 2"),
        ({"next_observations": np.zeros((4, 4, 2))}, LENGTHS, "5 observations for 4 steps and"),
    ],
)
def test_padded_arrays_are_not_guessed_at(changes, lengths, message):
    refused(message, from_padded, padded(recorded()) | changes, lengths, **BOX)


@pytest.mark.parametrize("extra", [True, False])
def test_zeros_behind_episodes_are_not_read_without_lengths(extra):
    arrays = padded(recorded(), extra=extra)
    for name, column in arrays.items():
        for episode, length in enumerate(LENGTHS):
            if column.ndim > 1:
                column[episode, length + (extra and name == "observations") :] = 0
    assert len(from_padded(arrays, LENGTHS, **BOX)) == 13 if extra else 11
    arrays["terminals"][:] = False
    refused(
        r"2 rows at the end of episode 0 .* give lengths=\[...\]", from_padded, arrays, None, **BOX
    )
    # The remedy for those who did record zeros.
    assert len(from_padded(arrays, [4] * 4, **BOX)) == (16 if extra else 12)


def test_padded_arrays_of_other_layouts_and_names_are_understood():
    arrays = padded(recorded())
    flags = np.zeros((4, 4, 1))
    flags[0, 1] = flags[2, 2] = 1
    renamed = {"obs": arrays["observations"], "act": arrays["actions"], "terminated": flags}
    data = from_padded(renamed | {"rewards": arrays["rewards"]}, LENGTHS, **BOX)
    assert data.fingerprint == from_padded(arrays, LENGTHS, **BOX).fingerprint
    dones = renamed | {"rewards": arrays["rewards"], "dones": flags}
    del dones["terminated"]  # who knows whether time limits are among them
    refused("lack terminals", from_padded, dones, LENGTHS, **BOX)
    named = from_padded(dones, LENGTHS, columns={"terminals": "dones"}, **BOX)
    assert named.fingerprint == data.fingerprint
    refused("hold 0 episodes", from_padded, {k: v[:0] for k, v in arrays.items()}, None, **BOX)


def test_data_that_are_given_have_no_path():
    arrays = padded(recorded())
    refused("path=... would not be read", from_padded, arrays, LENGTHS, path="x.npz", **BOX)
    refused("path=... would not be read", load, arrays, path="x.npz")


SPACE = SimpleNamespace


@pytest.mark.parametrize("read", [from_sb3, from_cleanrl])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos": 41}, "pos=41, expected a whole number from 0 to 40"),
        ({"pos": None}, "pos=None, expected a whole number"),
        ({"rewards": np.zeros((5, 1))}, r"rewards \[5, 1\] beside actions \[40, 1, 2\]"),
        ({"rewards": np.zeros(40)}, r"rewards \[40\] beside"),
        ({"next_observations": np.zeros((5, 1, 2))}, r"next_observations \[5, 1, 2\] beside"),
        ({"dones": np.full((40, 1), np.nan)}, "dones must hold only 0 and 1"),
        ({"timeouts": np.full((40, 1), 2.0)}, "timeouts must hold only 0 and 1"),
        ({"observations": np.zeros((40, 1, 3, 8, 8))}, r"images \[3, 8, 8\]"),
        ({"observations": np.zeros((40, 1, 8, 8), np.uint8)}, r"images \[8, 8\]"),
        ({"observation_space": SPACE(n=5)}, "discrete observations"),
        ({"action_space": SPACE(low=np.zeros(3), high=np.ones(3))}, "actions of 2 numbers"),
        ({"action_space": SPACE(low=np.zeros(2, int), high=np.ones(2, int))}, "whole numbers"),
        ({"action_space": SPACE(low=np.array([-np.inf]), high=np.ones(1))}, "unbounded"),
    ],
)
def test_buffers_that_hold_something_else_are_refused(read, change, message):
    buffer = RingBuffer(40, 1, actions="scaled", dones="timeouts").record(recorded())
    vars(buffer).update(change)
    refused(message, read, buffer)


def test_a_buffer_without_successors_is_refused_by_name():
    buffer = RingBuffer(40, 1, actions="scaled", dones="timeouts").record(recorded())
    del buffer.next_observations
    refused("no attribute 'next_observations'", from_sb3, buffer)


def test_actions_in_the_units_of_the_environment_are_not_clipped_unasked():
    buffer = RingBuffer(40, 1, actions="raw", dones="timeouts").record(recorded())
    refused(r"actions beyond \[-1, 1\].*from_cleanrl", from_sb3, buffer)
    assert from_sb3(buffer, clip_actions=True).transitions.action.abs().max() == 1
    truth = RingBuffer(40, 1, actions="scaled", dones="timeouts").record(recorded())
    remedied = from_cleanrl(buffer).transitions.action
    np.testing.assert_allclose(remedied, from_sb3(truth).transitions.action, atol=1e-5)


def test_settings_that_contradict_a_buffer_are_refused():
    told = RingBuffer(40, 1, actions="scaled", dones="timeouts").record(recorded())
    refused("tells 2 time limits apart", from_sb3, told, dones_terminate=True)
    silent = RingBuffer(40, 1, actions="scaled", dones="every").record(recorded())
    refused("4 steps, more than max_episode_steps=3", from_sb3, silent, max_episode_steps=3)
    refused("max_episode_steps=4 must be a whole number", from_sb3, silent, max_episode_steps="4")
    # Successors that are the next episode's start at time limits too: nothing shows those.
    resets = {"actions": "raw", "dones": "terminations", "reset_after": ("terminal", "limit")}
    hidden = RingBuffer(40, 1, **resets).record(recorded())
    refused("7 steps, more than max_episode_steps=4", from_cleanrl, hidden, max_episode_steps=4)


def test_cleanrl_without_successors_does_not_lead_across_time_limits():
    buffer = RingBuffer(40, 1, actions="raw", dones="terminations", shared=True)
    refused("made with optimize_memory_usage", from_cleanrl, buffer.record(recorded()))


def changed(held, name, change, only=0):
    setattr(held[only], name, change(getattr(held[only], name)))
    return held


def one_more(column):
    return np.concatenate([column, column[-1:]])


EPISODE_FAULTS = [
    (one_more, "differ in length"),
    (lambda column: column[:-1], "differ in length"),
    (lambda column: column[:0], "differ in length or are empty"),
    (lambda column: [[1.0], [2.0, 3.0]], "no array"),
]


@pytest.mark.parametrize(("change", "message"), EPISODE_FAULTS)
@pytest.mark.parametrize("name", ["observations", "actions", "rewards"])
def test_an_episode_of_d3rlpy_is_whole(name, change, message):
    held = changed(d3rlpy_episodes(recorded()), name, change)
    refused(f"episode 0.*{message}", from_d3rlpy, held, **BOX)


@pytest.mark.parametrize(("change", "message"), EPISODE_FAULTS)
@pytest.mark.parametrize("name", ["obs", "acts", "rews"])
def test_a_trajectory_of_imitation_is_whole(name, change, message):
    held = changed(trajectories(recorded(), infos=False), name, change)
    refused(f"episode 0.*{message}", from_imitation, held, dones_terminate=True, **BOX)


def test_rows_are_not_shifted_from_one_episode_to_the_next():
    held = changed(d3rlpy_episodes(recorded()), "observations", one_more)
    changed(held, "observations", lambda column: column[:-1], only=1)
    refused("episode 0", from_d3rlpy, held, **BOX)
    held = changed(trajectories(recorded()), "obs", one_more)
    changed(held, "obs", lambda column: column[:-1], only=1)
    refused("episode 0", from_imitation, held, **BOX)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("terminated", lambda _: np.nan, "terminated must hold only 0 and 1"),
        ("terminated", lambda _: "False", "terminated must hold only 0 and 1"),
        ("terminated", lambda _: np.zeros(2), r"terminated of shape \[2\]"),
        ("observations", lambda column: column[:, :1], r"episode 1 has observations of \[1\]"),
        ("actions", lambda column: column[:, :1], r"episode 1 has actions of \[1\]"),
        ("rewards", lambda column: np.tile(column, 2), r"rewards \[4, 2\], expected one"),
    ],
)
def test_odd_episodes_of_d3rlpy_are_named(name, change, message):
    held = changed(d3rlpy_episodes(recorded()), name, change, only=1)
    refused(message, from_d3rlpy, held, **BOX)
    refused("no attribute 'observations'", from_d3rlpy, [SimpleNamespace(terminated=True)])


def test_infos_that_do_not_tell_time_limits_need_a_word():
    """Cut to nothing, as by a save to disk, they would make every time limit a termination."""
    held = trajectories(recorded())
    for each in held:
        each.infos = np.array([{}] * len(each.acts))
    refused(r"TimeLimit.truncated.*dones_terminate=True", from_imitation, held, **BOX)
    data = from_imitation(held, max_episode_steps=4, **BOX)
    assert data.fingerprint == from_imitation(trajectories(recorded()), **BOX).fingerprint
    refused("more than max_episode_steps=3", from_imitation, held, max_episode_steps=3, **BOX)
    # A wrapper that writes the key at time limits alone has told of all.
    held = trajectories(recorded())
    held[0].infos[-1] = {}
    assert from_imitation(held, **BOX).fingerprint == data.fingerprint
    held[1].infos = held[1].infos[:1]
    refused("episode 1 has 1 infos for 4 actions", from_imitation, held, **BOX)
    held[1].infos = []
    refused("episode 1 has 0 infos", from_imitation, held, **BOX)


def test_on_and_off_are_discrete_actions():
    held = d3rlpy_episodes(recorded())
    for each in held:
        each.actions = np.ones((len(each.actions), 1), bool)
    refused("single booleans as actions", from_d3rlpy, held)
