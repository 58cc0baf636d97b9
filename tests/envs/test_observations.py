"""One flat layout for data and environments, whatever order the keys come in."""

from collections import OrderedDict

import numpy as np
import pytest
from gymnasium import spaces

from reverie.envs.observations import flatten, flatten_space, observation_keys


def box(*shape, dtype=np.float64):
    return spaces.Box(-10, 10, shape, dtype)


GOAL = spaces.Dict({"achieved_goal": box(2), "desired_goal": box(2), "observation": box(3)})
NESTED = spaces.Dict(
    {"observation": box(1), "desired_goal": spaces.Dict({"b": box(1), "a": box(2)})}
)
GOAL_VALUE = {
    "achieved_goal": np.array([8.0, 9.0]),
    "observation": np.array([1.0, 2.0, 3.0]),
    "desired_goal": np.array([4.0, 5.0]),
}


def test_a_box_becomes_a_float32_vector():
    flat = flatten(box(2, 2), np.arange(4.0).reshape(2, 2))
    assert flat.dtype == np.float32
    np.testing.assert_array_equal(flat, [0, 1, 2, 3])
    assert flatten_space(box(2, 2)) == 4


def test_a_scalar_box_counts_as_one_number():
    assert flatten(box(), np.array(3.0)).shape == (1,)
    assert flatten(box(), np.arange(5.0)).shape == (5, 1)
    assert flatten_space(box()) == 1


def test_a_goal_task_gives_observation_then_desired_goal():
    np.testing.assert_array_equal(flatten(GOAL, GOAL_VALUE), [1, 2, 3, 4, 5])
    assert flatten_space(GOAL) == 5


def test_the_achieved_goal_comes_last_on_request():
    keys = observation_keys(GOAL, include_achieved_goal=True)
    np.testing.assert_array_equal(flatten(GOAL, GOAL_VALUE, keys), [1, 2, 3, 4, 5, 8, 9])
    assert flatten_space(GOAL, keys) == 7


def test_chosen_keys_give_other_layouts():
    np.testing.assert_array_equal(
        flatten(GOAL, GOAL_VALUE, ("achieved_goal", "observation")), [8, 9, 1, 2, 3]
    )


def test_nested_goals_go_by_sorted_key():
    value = {"desired_goal": {"b": [7.0], "a": [5.0, 6.0]}, "observation": [1.0]}
    np.testing.assert_array_equal(flatten(NESTED, value), [1, 5, 6, 7])


def test_other_dicts_go_by_sorted_key_and_not_by_the_order_of_the_value():
    space = spaces.Dict(OrderedDict(z=box(1), a=box(2)))  # this kind of dict keeps its order
    np.testing.assert_array_equal(flatten(space, {"z": [3.0], "a": [1.0, 2.0]}), [1, 2, 3])


@pytest.mark.parametrize("space", [GOAL, NESTED, box(2, 3)])
def test_a_batch_is_the_stack_of_its_members(space):
    space.seed(0)
    members = [space.sample() for _ in range(4)]
    stacked = _stack(members)
    expected = np.stack([flatten(space, member) for member in members])
    np.testing.assert_array_equal(flatten(space, stacked), expected)


def _stack(members):
    if isinstance(members[0], dict):
        return {key: _stack([member[key] for member in members]) for key in members[0]}
    return np.stack(members)


@pytest.mark.parametrize(
    "space",
    [spaces.Discrete(3), spaces.Dict({"a": spaces.MultiBinary(2)}), spaces.Tuple([box(1)])],
)
def test_other_spaces_are_refused(space):
    with pytest.raises(ValueError, match="cannot be flattened"):
        flatten_space(space)


def test_a_missing_key_is_named():
    with pytest.raises(ValueError, match="'goal' is not in the space"):
        flatten_space(GOAL, ("goal",))
    with pytest.raises(ValueError, match="lacks the key 'desired_goal'"):
        flatten(GOAL, {"observation": np.zeros(3)})


def test_a_value_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"shape \(3, 4\), expected \(3,\)"):
        flatten(box(3), np.zeros((3, 4)))
