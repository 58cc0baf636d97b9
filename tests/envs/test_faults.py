"""Faults of a user's environment end in one line that names it and says what to change."""

import sys
from contextlib import closing

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from reverie.datasets.recording import record_episodes
from reverie.envs.evaluation import Evaluator
from reverie.envs.faults import stepped
from reverie.envs.make import make_env, make_raw_env, spec_of
from reverie.mistake import Mistake
from reverie.world_models.simulator import PerturbedSimulator

ID = "ReverieFaulty-v0"


class Faulty(gymnasium.Env):
    """Ten steps; from the third on what the test wants is wrong."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, first=None, obs=None, reward=1.0, answer=None, crash=None):
        self.first, self.obs, self.reward = first, obs, reward
        self.answer, self.crash, self.count = answer, crash, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return (np.zeros(3, np.float32), {}) if self.first is None else self.first

    def step(self, action):
        self.count += 1
        late = self.count >= 3
        if late and self.crash:
            raise self.crash
        obs = np.zeros(3, np.float32) if self.obs is None or not late else self.obs
        if self.answer is not None:
            return obs, 1.0, *self.answer
        return obs, self.reward if late else 1.0, False, self.count >= 10, {}


class Unseeded(Faulty):
    def reset(self, options=None):
        return np.zeros(3, np.float32), {}


class Shy(Faulty):
    """Fails inside its reset with the words of a wrong call."""

    def reset(self, *, seed=None, options=None):
        raise TypeError("reset() got an unexpected keyword argument 'seed'")


@pytest.fixture(autouse=True)
def registered():
    ids = {ID: Faulty, "ReverieUnseeded-v0": Unseeded, "ReverieShy-v0": Shy}
    for name, task in ids.items():
        gymnasium.register(name, entry_point=task, max_episode_steps=20)
    yield
    for name in ids:
        del gymnasium.registry[name]


def of(env_id=ID, **kwargs):
    return spec_of(env_id, env_kwargs=kwargs, physics="as-is")


def evaluate(spec):
    with closing(Evaluator(spec=spec, seeds=1, episodes=2)) as evaluator:
        return evaluator.run(lambda obs: torch.zeros(1, 2, 1), seed=0).returns


def collect(spec):
    record_episodes("test", spec, 12, 0, lambda number, rng: lambda obs: np.zeros(1, np.float32))


def train_online(spec):
    simulator = PerturbedSimulator(spec=spec, seeds=1, environments=1)
    for _ in range(5):
        simulator.move(lambda obs: torch.zeros(1, 1, 1), torch.zeros(1, 0, 3))


NAN = np.array([0.0, np.nan, 0.0], np.float32)
FAULTS = {
    "old reset": ({"first": np.zeros(3, np.float32)}, "its reset does not return .*old Gym"),
    "old reset of two": ({"first": np.zeros(2, np.float32)}, "its reset does not return"),
    "no info": ({"first": (np.zeros(3, np.float32), None)}, "its reset does not return"),
    "old step": ({"answer": (False, {})}, "its step does not return .*old Gym"),
    "no answer": ({"answer": ()}, "its step does not return"),
    "reward None": ({"reward": None}, "returned the reward None, expected one number"),
    "rewards": ({"reward": np.ones(2)}, r"reward an array of shape \[2\], expected one number"),
    "reward NaN": ({"reward": float("nan")}, "returned the reward nan; fix"),
    "reward beyond float32": ({"reward": 1e39}, "returned the reward 1e.39; fix"),
    "reward Inf": ({"reward": np.float32("inf")}, "returned the reward inf; fix"),
    "text": ({"reward": "high"}, "returned the reward 'high', expected one number"),
    "observation NaN": ({"obs": NAN}, r"step returned an observation .*not finite \(entries 1 "),
    "first NaN": ({"first": (NAN, {})}, "reset returned an observation that is not finite"),
    "observation None": ({"first": (None, {})}, "an observation is None, expected an array"),
    "wrong shape": ({"obs": np.zeros(4)}, r"an observation has shape \(4,\), expected \(3,\)"),
    "row": ({"obs": np.zeros((1, 3))}, r"an observation has the shape \(1, 3\), expected \(3,\)"),
    "words": ({"obs": np.array(["a", "b", "c"])}, "an observation holds <U1 values"),
    "complex": ({"obs": np.zeros(3) + 1j}, "an observation holds complex128 values"),
    "flag as text": ({"answer": ("False", False, {})}, "returned 'False' as terminated, expected"),
    "flag NaN": ({"answer": (False, np.nan, {})}, "returned nan as truncated, expected true"),
    "no info of a step": (
        {"answer": (False, False, None)},
        "returned None as info; return a",
    ),
    "crash": ({"crash": KeyError("sensor")}, "failed with KeyError: 'sensor'; fix"),
    "exit": ({"crash": SystemExit(3)}, "failed with SystemExit: 3; fix"),
    "terminated None": ({"answer": (None, False, {})}, "step returned None as terminated, expec"),
    "truncated None": ({"answer": (False, None, {})}, "step returned None as truncated, expec"),
}


@pytest.mark.parametrize("run", [evaluate, collect, train_online])
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_wherever_the_environment_is_stepped(run, fault):
    kwargs, message = FAULTS[fault]
    with pytest.raises(Mistake, match=f"{ID}.*{message}") as caught:
        run(of(**kwargs))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("run", [evaluate, collect, train_online])
def test_a_reset_without_seed_is_told_apart_from_one_that_fails(run):
    with pytest.raises(Mistake, match=r"Unseeded-v0: its reset does not take `seed`.*def reset"):
        run(of("ReverieUnseeded-v0"))
    with pytest.raises(Mistake, match=r"Shy-v0 failed with TypeError: reset.* got an unexpected"):
        run(of("ReverieShy-v0"))


@pytest.mark.parametrize("reward", [2, np.float64(2.0), np.array([2.0]), np.array([[2]]), True])
def test_one_number_is_a_reward_in_any_dress(reward):
    env = make_env(of(reward=reward))
    env.reset(seed=0)
    rewards = [env.step(np.zeros(1, np.float32))[1] for _ in range(3)]
    assert type(rewards[2]) is float
    assert rewards == [1.0, 1.0, float(np.asarray(reward).item())]


def test_lists_and_other_floats_are_observations():
    env = make_env(of(obs=[1, 2.0, 3]))
    env.reset(seed=0)
    for _ in range(3):
        obs = env.step(np.zeros(1, np.float32))[0]
    assert obs.tolist() == [1.0, 2.0, 3.0]
    assert obs.dtype == np.float32


def test_an_observation_after_the_last_step_may_be_anything():
    class Blind(Faulty):
        def step(self, action):
            return NAN, 1.0, True, False, {}

    gymnasium.register("ReverieBlindEnd-v0", entry_point=Blind, max_episode_steps=20)
    try:
        assert evaluate(of("ReverieBlindEnd-v0")).tolist() == [[1.0, 1.0]]
    finally:
        del gymnasium.registry["ReverieBlindEnd-v0"]


@pytest.mark.parametrize(
    "error", [KeyError("mass"), RuntimeError("no licence"), ZeroDivisionError()]
)
def test_errors_of_constructors_name_the_environment(error):
    def broken(**kwargs):
        raise error

    gymnasium.register("ReverieBroken-v0", entry_point=broken)
    try:
        with pytest.raises(Mistake, match=f"Broken-v0 cannot be created.*{type(error).__name__}"):
            of("ReverieBroken-v0")
    finally:
        del gymnasium.registry["ReverieBroken-v0"]


MODULE = """
import gymnasium
import numpy as np
from gymnasium import spaces

class Task(gymnasium.Env):
    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, gain=1.0):
        self.gain = gain

gymnasium.register("ReverieMine-v0", entry_point="reverie_test_tasks:Task", max_episode_steps=5)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of a user's; it and what it registers are gone after the test."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text, name="reverie_test_tasks"):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    yield write
    sys.modules.pop("reverie_test_tasks", None)
    gymnasium.registry.pop("ReverieMine-v0", None)


def test_the_module_that_an_id_names_is_imported(module):
    name = module(MODULE)
    assert of(f"{name}:ReverieMine-v0", gain=2.0).max_episode_steps == 5
    with pytest.raises(Mistake, match="did you mean ReverieMine-v0"):
        of(f"{name}:ReverieMine-v1")


def test_a_class_of_the_module_is_an_environment_too(module):
    spec = of(f"{module(MODULE)}:Task", gain=3.0)
    assert (spec.obs_dim, spec.max_episode_steps) == (2, None)
    assert make_raw_env(spec).unwrapped.gain == 3.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import reverie_no_such_thing", "imports reverie_no_such_thing, which is not there"),
        ("x = 1 +", "fails on import with SyntaxError"),
        ("{}['mass']", "fails on import with KeyError: 'mass'"),
        ("raise SystemExit(3)", "fails on import with SystemExit: 3"),
    ],
)
def test_a_module_that_fails_is_named_with_its_error(module, text, message):
    name = module(text)
    with pytest.raises(Mistake, match=f"{name}:Task-v0: its module {name} {message}") as caught:
        of(f"{name}:Task-v0")
    assert "pip" not in str(caught.value)


def test_a_file_in_the_place_of_a_module_is_told_how_it_is_named():
    with pytest.raises(Mistake, match=r"write arm:Task-v0, with PYTHONPATH=/my/tasks before"):
        of("/my/tasks/arm.py:Task-v0")


def test_a_missing_module_of_the_users_is_never_fetched_from_a_registry(tmp_path, monkeypatch):
    with pytest.raises(
        Mistake, match=r"no module my_tasks.arm; .*set PYTHONPATH to that"
    ) as caught:
        of("my_tasks.arm:Task-v0")
    assert "pip" not in str(caught.value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_tasks.py").touch()
    with pytest.raises(Mistake, match=r"my_tasks lies in the working folder, .*PYTHONPATH=\."):
        of("my_tasks.arm:Task-v0")


class Rough(Faulty):
    """Exits, changes the action that it is given, or cannot be closed."""

    def __init__(self, kind, high=1.0):
        super().__init__()
        self.kind = kind
        self.action_space = spaces.Box(-1.0, np.array([1.0, high], np.float32), (2,))
        if kind == "exits":
            raise SystemExit(3)

    def step(self, action):
        action[:] = 0.0
        return super().step(action)

    def close(self):
        if self.kind == "stays open":
            raise RuntimeError("busy")


@pytest.fixture
def rough():
    gymnasium.register("ReverieRough-v0", entry_point=Rough, max_episode_steps=20)
    yield lambda **kwargs: of("ReverieRough-v0", **kwargs)
    del gymnasium.registry["ReverieRough-v0"]


def test_a_constructor_that_ends_the_process_is_a_fault(rough):
    with pytest.raises(Mistake, match=r"ReverieRough-v0 cannot be created .*SystemExit: 3"):
        rough(kind="exits")


@pytest.mark.parametrize("method", ["reset", "step"])
def test_a_method_that_returns_nothing_is_named_below_a_wrapper_too(method):
    env = gymnasium.wrappers.TransformObservation(Faulty(), lambda obs: obs, None)
    setattr(env.env, method, lambda *args, **kwargs: None)
    with pytest.raises(Mistake, match=f"environment E: its {method} does not return"), stepped("E"):
        env.reset()
        env.step(np.zeros(2, np.float32))


def test_an_action_without_a_choice_is_refused(rough):
    with pytest.raises(Mistake, match=r"ReverieRough-v0 has the action space .* nothing to choose"):
        rough(kind="fixed", high=-1.0)


def test_what_fails_when_it_is_closed_is_told_and_harms_nothing(rough, caplog):
    Evaluator(spec=rough(kind="stays open"), seeds=1, episodes=2).close()
    assert "ReverieRough-v0: its close failed with RuntimeError: busy" in caplog.text


def test_recorded_actions_are_those_that_were_taken(rough):
    def behaviour(number, rng):
        return lambda obs: np.full(2, 0.5, np.float32)

    columns = record_episodes("test", rough(kind="rough"), 5, 0, behaviour)
    assert (columns["action"] == 0.5).all()
