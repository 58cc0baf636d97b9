"""The simulator as a world model: rollouts carry its full state, fits check that it is the task."""

import logging
from contextlib import closing

import numpy as np
import pytest
import torch

from reverie.datasets.build import build
from reverie.envs.make import make_env, make_raw_env, spec_of
from reverie.training import fitting
from reverie.world_models import diagnostics
from reverie.world_models.base import Step
from reverie.world_models.filters import FilterResult, KeepAll, TransitionFilter, UncertaintyPenalty
from reverie.world_models.sources import BranchedRollouts
from reverie.world_models.true_dynamics import TrueDynamics

WALKER = spec_of("Walker2d-v4", env_kwargs={}, physics="as-is")
PENDULUM = spec_of("Pendulum-v1", env_kwargs={}, physics="as-is")


def model_of(spec, **changes):
    hyperparameters = {"seeds": 2, "seed": 0, "threads": 1, "rows": 500, "tolerance": 1e-3}
    return TrueDynamics(spec=spec, **(hyperparameters | changes))


def recorded(spec, steps):
    """A dataset of random actions, episode after episode."""
    rng = np.random.default_rng(0)
    columns = {name: [] for name in ("obs", "action", "reward", "terminated", "next_obs", "cut")}
    with closing(make_raw_env(spec)) as env:
        obs, _ = env.reset(seed=0)
        for _ in range(steps):
            action = rng.uniform(spec.action_low, spec.action_high).astype(np.float32)
            next_obs, reward, terminated, cut, _ = env.step(action)
            row = (obs, action, reward, terminated, next_obs, cut and not terminated)
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
            obs = env.reset()[0] if terminated or cut else next_obs
    arrays = {name: np.array(column) for name, column in columns.items()}
    arrays["cut"][-1] |= not arrays["terminated"][-1]
    return build(
        name="recorded",
        spec=spec,
        obs=arrays["obs"].astype(np.float32),
        action=arrays["action"],
        reward=arrays["reward"].astype(np.float32),
        terminated=arrays["terminated"].astype(bool),
        truncated=arrays["cut"].astype(bool),
        next_obs=arrays["next_obs"].astype(np.float32),
        reference=None,
        origin={},
        clip_actions=False,
    )


@pytest.fixture(scope="module")
def walks():
    return recorded(WALKER, 300)


def rollouts(model, transition_filter=None, horizon=6):
    return BranchedRollouts(
        model=model,
        transition_filter=transition_filter or KeepAll(),
        horizon=horizon,
        starts=2,
        every=1,
        retain=1,
        actions="policy",
    )


def hard_policy(obs):
    """Full torque one way or the other, by the angle of the knee: fast joints."""
    return torch.where(obs[..., 3:4] > -0.1, -1.0, 1.0) * torch.ones(*obs.shape[:-1], 6)


def test_rollouts_carry_velocities_that_the_observation_clips():
    """Checked against the environment, set to the start state and stepped with the same actions."""
    starts = torch.zeros(1, 2, 17)
    starts[..., 0], starts[0, 1, 3] = 1.4, -0.3
    horizon = 10
    rows, keep = rollouts(model_of(WALKER), horizon=horizon).generate(hard_policy, starts)
    rows = rows.map(lambda column: column.unflatten(1, (horizon, 2)))
    alive = keep.unflatten(1, (horizon, 2))
    with closing(make_env(WALKER)) as env:
        for start in range(2):
            env.reset(seed=0)
            state = np.concatenate([[0.0], starts[0, start].double().numpy()])
            env.unwrapped.set_state(state[:9], state[9:])
            for t in range(horizon):
                if not alive[0, t, start]:
                    break
                obs, reward, terminated, _, _ = env.step(rows.action[0, t, start].numpy())
                assert torch.allclose(
                    rows.next_obs[0, t, start], torch.from_numpy(obs), rtol=1e-5, atol=1e-5
                )
                assert abs(rows.reward[0, t, start].item() - reward) < 1e-4
                assert bool(rows.terminated[0, t, start]) == terminated
    kept = alive[..., None] & (rows.next_obs.abs() >= 10)
    assert kept[:, :-1].any(), "nothing was clipped, so this test shows nothing"
    # Rebuilding the state from those observations, as a memoryless oracle would, goes elsewhere.
    model = model_of(WALKER)
    memoryless = model.step(rows.obs[:, 1:].flatten(1, 2), rows.action[:, 1:].flatten(1, 2))
    error = (memoryless.next_obs[0] - rows.next_obs[:, 1:].flatten(1, 2)).abs().amax(-1)
    continued = alive[:, 1:].flatten(1, 2)
    was_clipped = model.simulator.clipped(rows.obs[:, 1:].flatten(1, 2))
    assert error[continued & was_clipped].max() > 0.1
    assert error[continued & ~was_clipped].max() < 1e-2


class Watching(TransitionFilter):
    """Ends the first start's rollout after its first step and keeps the states it is shown."""

    def __init__(self):
        super().__init__()
        self.states = []

    def forward(self, obs, action, step, elapsed_steps=0):
        self.states.append(step.state[0])
        goes_on = torch.ones_like(step.terminated[0])
        goes_on[:, 0] = False
        return FilterResult(step, keep=torch.ones_like(goes_on), goes_on=goes_on)


def test_a_rollout_that_stands_still_keeps_its_state_too():
    watching, starts = Watching(), torch.zeros(1, 2, 17)
    starts[..., 0] = 1.25
    _, keep = rollouts(model_of(WALKER), watching, horizon=3).generate(
        lambda obs: torch.zeros(*obs.shape[:-1], 6), starts
    )
    assert keep.unflatten(1, (3, 2))[0].tolist() == [[True, True], [False, True], [False, True]]
    first, second, third = (state[0] for state in watching.states)
    # Standing still is to be stepped from the same state again and again.
    assert torch.equal(second[0], first[0]) and torch.equal(third[0], first[0])
    assert third[1, 0] > second[1, 0] > first[1, 0]  # time goes on for the other


class Forgetful(TransitionFilter):
    """Rebuilds a step without its state."""

    def forward(self, obs, action, step, elapsed_steps=0):
        everything = torch.ones_like(step.terminated[0])
        step = Step(step.next_obs, step.reward, step.terminated, step.uncertainty)
        return FilterResult(step, keep=everything, goes_on=everything)


def test_a_filter_that_loses_the_state_is_named():
    with pytest.raises(RuntimeError, match="Forgetful lost the `state`"):
        rollouts(model_of(WALKER), Forgetful()).generate(hard_policy, torch.ones(1, 2, 17))


def test_penalties_keep_the_state_and_find_no_uncertainty():
    obs, action = torch.ones(2, 3, 17), torch.zeros(2, 3, 6)
    step = model_of(WALKER).step(obs, action)
    judged = UncertaintyPenalty(penalty=5.0, unit="raw")(obs, action, step).step
    assert judged.state is step.state and torch.equal(judged.reward, step.reward)


def test_candidates_are_the_same_outcome():
    step = model_of(WALKER).step(torch.ones(2, 3, 17), torch.zeros(2, 3, 6), candidates=4)
    assert step.state.shape == (4, 2, 3, 19) and step.state.dtype == torch.float64
    for values in (step.next_obs, step.reward, step.terminated, step.state):
        assert torch.equal(values[0], values[3])
    assert torch.equal(step.uncertainty, torch.zeros(2, 3))


def test_a_fit_replays_the_data_and_counts_what_is_hidden(walks, caplog):
    described = model_of(WALKER).fit(walks)
    velocity = walks.transitions.obs[:, 8:]
    assert described["clipped_fraction"] == pytest.approx(
        (velocity.abs() == 10).any(1).double().mean().item()
    )
    assert described["clipped_fraction"] > 0.2 and described["rows"] == 300
    rebuilt, everything = described["replay"]["rebuilt"], described["replay"]["all"]
    assert rebuilt["next_obs_p90"] < 1e-4 and rebuilt["reward_p90"] < 1e-5
    assert rebuilt["next_obs_median"] <= rebuilt["next_obs_p90"] <= rebuilt["next_obs_max"]
    assert rebuilt["other_flags"] == 0
    assert everything["next_obs_max"] > 1  # hidden velocities
    assert not caplog.records


def test_data_of_another_version_give_a_warning(walks, caplog):
    # Walker2d-v5 has other feet.
    other = spec_of("Walker2d-v5", env_kwargs={}, physics="as-is")
    with caplog.at_level(logging.WARNING):
        described = model_of(other).fit(walks)
    assert described["replay"]["rebuilt"]["other_flags"] == 0
    assert described["replay"]["rebuilt"]["next_obs_p90"] > 1e-3
    message = caplog.records[0].message
    assert "stepping Walker2d-v5 from observations of dataset recorded misses" in message


def test_a_fit_is_a_sample_of_the_rows_that_have_a_successor(walks):
    model = model_of(WALKER, rows=40)
    assert model.fit(walks)["rows"] == 40
    assert model.fit(walks) == model.fit(walks)
    broken = type(walks)(**{**vars(walks), "valid_next": torch.arange(len(walks)) < 10})
    assert model.fit(broken)["rows"] == 10


def test_it_is_cached_and_loaded_like_a_fitted_model(walks, tmp_path):
    device = torch.device("cpu")
    group = "world_model"
    places = {"cache": tmp_path / "cache", "given": None, "progress": None, "device": device}
    places["group"] = group
    first, reused = fitting.fit_or_load(model_of(WALKER), walks, own=tmp_path / "a.pt", **places)
    assert not reused
    again = model_of(WALKER, threads=2)
    second, reused = fitting.fit_or_load(again, walks, own=tmp_path / "b.pt", **places)
    assert reused and second == first and again.fitted_on == walks.fingerprint
    other = model_of(spec_of("Walker2d-v4", env_kwargs={"ctrl_cost_weight": 1.0}, physics="as-is"))
    with pytest.raises(ValueError, match="was fitted with env_kwargs"):
        fitting.load(other, tmp_path / "a.pt", walks, device, group=group)


def test_diagnostics_find_no_error_but_rounding():
    cheetah = spec_of("HalfCheetah-v5", env_kwargs={}, physics="as-is")
    data = recorded(cheetah, 60)
    measured = diagnostics.measure(model_of(cheetah), data, segments=20)
    assert measured["one_step"]["rmse_max"][0] < 1e-3
    ten = measured["open_loop"]["horizons"].index(10)
    assert measured["open_loop"]["mean"]["p90"][0][ten] < 1e-2
    assert measured["open_loop"]["sampled"]["p90"][0][ten] < 1e-2
    assert measured["open_loop"]["constant"]["median"][0][ten] > 0.5
    assert measured["uncertainty"]["spearman"] == [None]


def test_threads_may_be_left_to_torch():
    assert model_of(PENDULUM, threads="auto").simulator.step(
        torch.ones(2, 4, 3), torch.zeros(2, 4, 1)
    ).reward.shape == (2, 4)
