"""What was recorded of an environment is kept; no module is imported because a file names it."""

import json
import logging
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from reverie.datasets.readers.minari import load
from reverie.envs.make import make_raw_env
from reverie.mistake import Mistake
from tests.datasets.test_minari import buffers, options, write

MODULE = """
import gymnasium
import numpy as np
from gymnasium import spaces

class Base(gymnasium.Env):
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)

    def __init__(self, render_mode=None, limit=30, mass=1.0):
        self.limit, self.mass = limit, mass

"""
REGISTER = 'gymnasium.register("ReverieTheirs-v0", entry_point=Base, max_episode_steps=30)\n'


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of the user's beside the data; `registering` says whether it registers the id."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write_module(registering, name="reverie_theirs"):
        (tmp_path / f"{name}.py").write_text(MODULE + REGISTER * registering)
        monkeypatch.delitem(sys.modules, name, raising=False)

    yield write_module
    sys.modules.pop("reverie_theirs", None)
    gymnasium.registry.pop("ReverieTheirs-v0", None)


def recorded(id="ReverieTheirs-v0", entry="reverie_theirs:Base", wrappers=(), **changes):
    spec = {"id": id, "entry_point": entry, "max_episode_steps": 30, "kwargs": {"limit": 7}}
    return json.dumps(spec | {"additional_wrappers": list(wrappers)} | changes)


def of(root, env_id, **changes):
    return load(**options(root, env_id=env_id, **changes)).spec


@pytest.mark.parametrize("id", ["ReverieTheirs-v0", "reverie_theirs:ReverieTheirs-v0"])
def test_a_module_that_the_file_names_is_not_imported_unasked(tmp_path, module, id):
    module(True)
    write(tmp_path, buffers(), env_spec=recorded(id))
    typed = r"dataset\.env_id=reverie_theirs:ReverieTheirs-v0, .*dataset\.env_id=null"
    with pytest.raises(Mistake, match=rf"ReverieTheirs-v0, made by reverie_theirs:Base, .*{typed}"):
        of(tmp_path, "recorded")
    assert "reverie_theirs" not in sys.modules


def test_a_module_in_the_id_of_a_known_task_is_not_imported_either(tmp_path, module):
    module(True)
    box = spaces.Box(-np.inf, np.inf, (3,))
    episodes = list(buffers())
    for episode in episodes:
        episode["observations"] = np.zeros((len(episode["rewards"]) + 1, 3))
    write(tmp_path, episodes, space=box, env_spec=recorded("reverie_theirs:Pendulum-v1", kwargs={}))
    assert of(tmp_path, "recorded").env_id == "Pendulum-v1"
    assert "reverie_theirs" not in sys.modules


@pytest.mark.parametrize(("registering", "env_id"), [(True, "ReverieTheirs-v0"), (False, "Base")])
def test_what_the_error_says_to_type_keeps_what_was_recorded(tmp_path, module, registering, env_id):
    module(registering)
    write(tmp_path, buffers(), env_spec=recorded())
    spec = of(tmp_path, "reverie_theirs:ReverieTheirs-v0", env_kwargs={"mass": 2.0})
    assert spec.env_id == f"reverie_theirs:{env_id}"
    assert (spec.env_kwargs, spec.max_episode_steps) == ({"limit": 7, "mass": 2.0}, 30)
    env = make_raw_env(spec)
    assert (env.unwrapped.limit, env.unwrapped.mass) == (7, 2.0)
    assert env.spec.max_episode_steps == 30
    changed = of(tmp_path, "reverie_theirs:Base", env_kwargs={"limit": 9}, max_episode_steps=5)
    assert (changed.env_kwargs, changed.max_episode_steps) == ({"limit": 9}, 5)
    if registering:  # by the import above
        assert of(tmp_path, "recorded").env_kwargs == {"limit": 7}


def test_the_maker_must_lie_in_the_module_named(tmp_path, module):
    module(False)
    write(tmp_path, buffers(), env_spec=recorded(entry="evil:Base"))
    with pytest.raises(Mistake, match="'reverie_theirs:ReverieTheirs-v0' is not registered"):
        of(tmp_path, "reverie_theirs:ReverieTheirs-v0")


def test_options_of_another_environment_are_left_out_aloud(tmp_path, module, caplog):
    module(True)
    write(tmp_path, buffers(), env_spec=recorded("Other-v0", entry="other:Other"))
    with caplog.at_level(logging.WARNING):
        assert of(tmp_path, "reverie_theirs:ReverieTheirs-v0").env_kwargs == {}
    assert "recorded in Other-v0 with the options {'limit': 7}" in caplog.text
    assert "dataset.env_kwargs" in caplog.text


FRAMES = {
    "name": "FrameStackObservation",
    "entry_point": "gymnasium.wrappers.stateful_observation:FrameStackObservation",
    "kwargs": {"stack_size": 2},
}
RESCALED = {
    "name": "RescaleAction",
    "entry_point": "gymnasium.wrappers.transform_action:RescaleAction",
    "kwargs": {"min_action": -1.0, "max_action": 1.0},
}


def test_recorded_wrappers_of_gymnasium_are_applied_again(tmp_path):
    episodes = list(buffers())
    for episode in episodes:
        episode["observations"] = np.zeros((len(episode["rewards"]) + 1, 2, 3))
        episode["actions"] = episode["actions"] / 2
    wrapped = recorded("Pendulum-v1", "unused:Unused", [FRAMES, RESCALED], kwargs={"g": 9.0})
    space = spaces.Box(-np.inf, np.inf, (2, 3))
    action = spaces.Box(-1.0, 1.0, (1,), np.float32)
    write(tmp_path, episodes, space=space, action=action, env_spec=wrapped)
    for env_id in ("recorded", "Pendulum-v1"):
        spec = of(tmp_path, env_id)
        assert (spec.obs_dim, spec.action_high, spec.env_kwargs) == (6, (1.0,), {"g": 9.0})
        env = make_raw_env(spec)
        assert env.observation_space.shape == (2, 3)
        assert env.unwrapped.g == 9.0
        assert env.action_space.high.tolist() == [1.0]


@pytest.mark.parametrize("text", ["{", "[]", '{"kwargs": 3}', '{"id": "A-v0", "kwargs": [1]}'])
def test_a_record_that_cannot_be_read_gives_the_remedy(tmp_path, text, caplog):
    write(tmp_path, buffers(), env_spec=text)
    with pytest.raises(Mistake, match=r"has an env_spec that cannot be read.*null for none"):
        of(tmp_path, "recorded")
    assert of(tmp_path, None).env_id is None
