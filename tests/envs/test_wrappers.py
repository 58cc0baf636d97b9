"""Gymnasium's own wrappers of a recording are applied again; nothing else is built from a file."""

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import FlattenObservation, FrameStackObservation, RescaleAction

from reverie.envs.make import make_env, make_raw_env, spec_of
from reverie.envs.termination import rule_for_spec
from reverie.envs.wrappers import split, wrap
from reverie.mistake import Mistake


def recorded(env):
    return [vars(wrapper) for wrapper in env.spec.additional_wrappers]


def of(env):
    known, others = split(recorded(env))
    assert others == []
    return spec_of("Pendulum-v1", env_kwargs={}, physics="as-is", wrappers=known)


def test_what_gymnasium_records_is_built_again():
    env = RescaleAction(gymnasium.make("Pendulum-v1"), np.float32(-5.0), np.float32(5.0))
    env = FlattenObservation(FrameStackObservation(env, 2))
    spec = of(env)
    assert (spec.obs_dim, spec.action_high, spec.max_episode_steps) == (6, (5.0,), 200)
    ours = make_env(spec)
    first, again = env.reset(seed=1)[0], ours.reset(seed=1)[0]
    np.testing.assert_array_equal(first, again)
    theirs = env.step(np.array([2.5], np.float32))
    step = ours.step(np.array([0.5], np.float32))
    np.testing.assert_array_equal(theirs[0], step[0])
    assert theirs[1] == pytest.approx(step[1])


def test_frame_stacks_of_older_gymnasiums_are_understood():
    old = {
        "name": "FrameStack",
        "entry_point": "gymnasium.wrappers.frame_stack:FrameStack",
        "kwargs": {"num_stack": 3, "lz4_compress": False},
    }
    known, others = split([old])
    assert others == []
    spec = spec_of("Pendulum-v1", env_kwargs={}, physics="as-is", wrappers=known)
    assert spec.obs_dim == 9


def test_wrappers_of_others_are_left_out_and_named():
    items = [
        {"name": "FlattenObservation", "entry_point": "evil:FlattenObservation", "kwargs": {}},
        {"name": "NormalizeObservation", "entry_point": "gymnasium.wrappers.x:Y", "kwargs": {}},
        {"name": "RescaleAction", "entry_point": "gymnasium.wrappers.x:Y", "kwargs": None},
        {"name": "OrderEnforcing", "entry_point": "gymnasium.wrappers.x:Y", "kwargs": {}},
    ]
    assert split(items) == ((), ["FlattenObservation", "NormalizeObservation", "RescaleAction"])


@pytest.mark.parametrize(
    ("wrapper", "message"),
    [
        ({"name": "RecordVideo", "kwargs": {"video_folder": "x"}}, "RecordVideo is none of"),
        ({"name": "RescaleAction", "kwargs": {"low": 1}}, "cannot be wrapped in RescaleAction"),
    ],
)
def test_a_wrapper_that_cannot_be_applied_is_refused(wrapper, message):
    with pytest.raises(Mistake, match=message):
        wrap("Pendulum-v1", gymnasium.make("Pendulum-v1"), (wrapper,))


def test_wrappers_that_change_the_observation_make_rules_doubtful():
    plain = spec_of("Hopper-v5", env_kwargs={}, physics="as-is")
    flat = ({"name": "FlattenObservation", "kwargs": {}},)
    other = ({"name": "DelayObservation", "kwargs": {"delay": 1}},)
    for wrappers, known in ((flat, True), (other, False)):
        spec = spec_of("Hopper-v5", env_kwargs={}, physics="as-is", wrappers=wrappers)
        assert (rule_for_spec(spec) is rule_for_spec(plain)) == known
        make_raw_env(spec).close()
