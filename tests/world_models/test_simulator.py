"""The stream of a simulator: true successors, seeds apart, the same bits after a resume."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from reverie.datasets.replay import Mixture, Replay
from reverie.envs.make import spec_of
from reverie.envs.perturbed import Perturbation, make_perturbed
from reverie.training.checkpoint import State
from reverie.training.logging import Log, NoTracker
from reverie.training.loop import Periods, train
from reverie.world_models.base import Step, WorldModel
from reverie.world_models.filters import FilterResult, KeepAll, TransitionFilter
from reverie.world_models.simulator import ModelSimulator, PerturbedSimulator, SimulatorRollouts

LIMIT = 7


@pytest.fixture(scope="module")
def pendulum():
    return spec_of("Pendulum-v1", env_kwargs={}, physics="as-is", max_episode_steps=LIMIT)


@pytest.fixture(scope="module")
def hopper():
    return spec_of("Hopper-v5", env_kwargs={}, physics="as-is", max_episode_steps=30)


def source_of(simulator, **changes):
    numbers = {"steps": 1, "every": 1, "warmup": 0, "random_warmup": False, "capacity": 5000}
    return SimulatorRollouts(simulator=simulator, **(numbers | changes))


def stream(spec, seeds=1, environments=1, perturbation=None, **changes):
    simulator = PerturbedSimulator(
        spec=spec, seeds=seeds, environments=environments, **(perturbation or {})
    )
    return source_of(simulator, **changes)


def fixed(actions, obs):
    """A policy that answers every observation by the same rule, in every seed."""
    return torch.tanh(obs.sum(-1, keepdim=True) + torch.linspace(-1, 1, actions))


def starts_for(source, seeds, obs_dim=3):
    return torch.zeros(seeds, source.starts, obs_dim)


def collect(source, policy, seeds, rounds=1, obs_dim=3):
    rows, keep = [], []
    for _ in range(rounds):
        row, kept = source.generate(policy, starts_for(source, seeds, obs_dim))
        rows.append(row)
        keep.append(kept)
    columns = [vars(row) for row in rows]
    return {name: torch.cat([c[name] for c in columns], 1) for name in columns[0]}, torch.cat(
        keep, 1
    )


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("changes", [{}, {"gravity": 2.0, "joint_noise": 0.5}])
def test_the_stream_is_what_stepping_each_environment_alone_gives(hopper, changes):
    seeds, environments, steps = 2, 2, 70
    torch.manual_seed(5)
    source = stream(hopper, seeds, environments, changes, steps=steps)
    policy = partial(fixed, 3)
    rows, keep = collect(source, policy, seeds, obs_dim=11)
    assert keep.all() and keep.shape == (seeds, steps * environments) and not rows["is_real"].any()
    torch.manual_seed(5)
    numbers = torch.randint(2**31, (seeds * environments,)).tolist()
    ends = 0
    for copy, number in enumerate(numbers):
        env = make_perturbed(hopper, Perturbation(**changes))
        obs, _ = env.reset(seed=number)
        seed, column = divmod(copy, environments)
        mine = {
            name: value[seed].unflatten(0, (steps, environments))[:, column]
            for name, value in rows.items()
        }
        for step in range(steps):
            action = policy(torch.from_numpy(obs))
            assert np.array_equal(mine["obs"][step].numpy(), obs)
            assert torch.equal(mine["action"][step], action)  # the commanded one
            obs, reward, terminated, truncated, _ = env.step(action.numpy())
            assert np.array_equal(mine["next_obs"][step].numpy(), obs)
            assert mine["reward"][step].item() == np.float32(reward)
            assert mine["terminated"][step].item() == terminated
            if terminated or truncated:
                ends += 1
                obs, _ = env.reset()
    assert ends > 2 * seeds * environments


def test_time_limits_are_not_terminal_and_keep_their_true_successor(pendulum):
    rows, _ = collect(stream(pendulum, steps=3 * LIMIT + 2), partial(fixed, 1), 1)
    assert not rows["terminated"].any()
    obs, next_obs = rows["obs"][0], rows["next_obs"][0]
    goes_on = (obs[1:] == next_obs[:-1]).all(-1)
    expected = torch.ones(len(goes_on), dtype=torch.bool)
    expected[LIMIT - 1 :: LIMIT] = False  # the next episode starts elsewhere
    assert torch.equal(goes_on, expected)
    # Pendulum's own equation holds across the last step of an episode, too.
    velocity = obs[:, 2] + (15 * obs[:, 1] + 3 * 2 * rows["action"][0, :, 0]) * 0.05
    torch.testing.assert_close(next_obs[:, 2], velocity.clamp(-8, 8), rtol=1e-5, atol=1e-5)


def test_a_fall_is_terminal_and_a_time_limit_is_not(hopper):
    rows, _ = collect(stream(hopper, steps=200), partial(fixed, 3), 1, obs_dim=11)
    fallen = rows["terminated"][0]
    assert fallen.any()
    height, angle = rows["next_obs"][0, :, 0], rows["next_obs"][0, :, 1]
    assert torch.equal(fallen, ~((height > 0.7) & (angle.abs() < 0.2)))


def test_environments_start_apart_from_each_other(pendulum):
    rows, _ = collect(stream(pendulum, seeds=3, environments=4), partial(fixed, 1), 3)
    assert len(rows["obs"].flatten(0, 1).unique(dim=0)) == 12


def test_a_poisoned_seed_leaves_the_others_and_recovers(pendulum):
    def poisoned(obs):
        action = fixed(1, obs)
        action[1] = float("nan")
        return action

    torch.manual_seed(0)
    clean, _ = collect(stream(pendulum, 2, 2, steps=20), partial(fixed, 1), 2)
    torch.manual_seed(0)
    source = stream(pendulum, 2, 2, steps=20)
    dirty, keep = collect(source, poisoned, 2)
    for name in clean:
        assert torch.equal(clean[name][0], dirty[name][0])
    assert keep[0].all() and not keep[1].any()
    after, kept = collect(source, partial(fixed, 1), 2)
    assert kept.all() and after["next_obs"].isfinite().all()


def test_the_first_rollout_round_warms_up_and_the_others_do_not(pendulum):
    source = stream(pendulum, environments=3, steps=2, warmup=10)
    first, _ = collect(source, partial(fixed, 1), 1)
    assert first["reward"].shape == (1, (4 + 2) * 3)  # ten, rounded up to whole rounds of three
    second, _ = collect(source, partial(fixed, 1), 1)
    assert second["reward"].shape == (1, 2 * 3)
    assert torch.equal(first["action"], fixed(1, first["obs"]))


def test_a_random_warm_up_is_uniform_and_then_the_policy_takes_over(pendulum):
    source = stream(pendulum, steps=5, warmup=400, random_warmup=True)
    rows, _ = collect(source, partial(fixed, 1), 1)
    action = rows["action"][0, :, 0]
    warm = action[:400]
    assert abs(warm.mean()) < 0.12 and abs(warm.var() - 1 / 3) < 0.06  # four standard errors
    assert torch.equal(action[400:, None], fixed(1, rows["obs"][0, 400:]))


def test_the_return_is_that_of_whole_episodes(pendulum):
    source = stream(pendulum, seeds=2, environments=2, steps=LIMIT - 1)
    rewards = collect(source, partial(fixed, 1), 2)[0]["reward"]
    assert source.metrics() == {}  # no episode is over yet
    rewards = torch.cat([rewards, collect(source, partial(fixed, 1), 2)[0]["reward"]], 1)
    by_copy = rewards.unflatten(1, (-1, 2))[:, :LIMIT].sum(1)
    torch.testing.assert_close(source.metrics()["return"], by_copy.mean(1))


def saved_and_loaded(source, path):
    torch.save(source.contents(), path)
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("before", [0, 5])
def test_a_resumed_stream_goes_on_bitwise(hopper, tmp_path, before):
    def make():
        return stream(
            hopper, 2, 2, {"gravity": 2.0, "joint_noise": 0.3}, warmup=8, random_warmup=True
        )

    policy = partial(fixed, 3)
    first = make()
    if before:
        collect(first, policy, 2, before, 11)
    held = saved_and_loaded(first, tmp_path / "source.pt")
    second = make()
    collect(second, policy, 2, 3, 11)  # wherever it was
    second.restore(held)
    assert second.starts == first.starts and second.rounds == first.rounds
    results = []
    for source in (first, second):
        torch.manual_seed(7)
        results.append(collect(source, policy, 2, 90, 11))
    assert same(results[0][0], results[1][0]) and results[0][0]["terminated"].any()
    assert torch.equal(first.metrics()["return"], second.metrics()["return"])


def test_a_run_resumed_from_its_checkpoint_ends_with_the_same_bits(
    pendulum, make_sac, make_batch, tmp_path
):
    """The loop, the replay and the simulator, killed between two checkpoints."""

    class Data:
        fingerprint, reference, spec = "none", None, pendulum

    def run(updates, folder, resume=False, stop=None):
        torch.manual_seed(1)
        agent = make_sac(pendulum, seeds=2)
        source = stream(pendulum, 2, 1, {"gravity": 2.0}, warmup=20)
        real = make_batch(20, action_dim=1)
        replay = Replay(real[:1], seeds=2, capacity=source.capacity)
        streams = {"real": Replay.of(real), "simulator": replay}
        mixture = Mixture(streams, {"real": 4, "simulator": 4}, seeds=2)
        folder.mkdir(exist_ok=True)
        log = Log(folder / "metrics.csv", NoTracker(), 2)
        sources = {"simulator": source}
        cpu = torch.device("cpu")
        state = State(agent, mixture, sources, log, {"training": 0.0}, Data(), cpu)  # type: ignore[arg-type]
        path = folder / "checkpoint.pt"
        first = state.resume(path) if resume else 0
        log.begin()
        train(
            agent,
            mixture,
            sources,
            first=first,
            updates=updates if stop is None else stop,
            periods=Periods(log=5, evaluate=0, checkpoint=20),
            log=log,
            evaluate=lambda done: None,
            checkpoint=lambda done: state.save(path, done) if done % 20 == 0 else None,
            compile=lambda function: function,
            on_update=lambda done: None,
        )
        return agent.state_dict(), replay.contents(), (folder / "metrics.csv").read_text()

    whole = run(60, tmp_path / "whole")
    run(60, tmp_path / "killed", stop=33)
    resumed = run(60, tmp_path / "killed", resume=True)
    assert same(whole[0], resumed[0]) and same(whole[1], resumed[1]) and whole[2] == resumed[2]
    assert "simulator/return" in whole[2] and "simulator/rollout_length" not in whole[2]


class Counter(WorldModel):
    """Adds one to every state; terminal from `end` on, broken from `broken` on."""

    def __init__(self, end=1e9, broken=1e9):
        super().__init__()
        self.end, self.broken = end, broken

    def fit(self, data, progress=None):
        return {}

    def signature(self):
        return {}

    def step(self, obs, action, candidates=1, state=None):
        after = torch.where(obs + 1 >= self.broken, float("nan"), obs + 1)
        return Step(
            next_obs=after.expand(candidates, *obs.shape),
            reward=obs[..., 0].expand(candidates, *obs.shape[:-1]),
            terminated=(after[..., 0] >= self.end).expand(candidates, *obs.shape[:-1]),
            uncertainty=obs[..., 0],
        )


class StopAt(TransitionFilter):
    """Ends a rollout at a state without keeping that row."""

    def forward(self, obs, action, step, elapsed_steps=0):
        inside = step.next_obs[0, ..., 0] < 3
        return FilterResult(step, keep=inside, goes_on=inside)


def imagined(model, spec, horizon, transition_filter=None, **changes):
    simulator = ModelSimulator(
        spec=spec,
        seeds=2,
        model=model,
        transition_filter=transition_filter or KeepAll(),
        environments=1,
        horizon=horizon,
    )
    return source_of(simulator, **changes)


def visited(source, rounds):
    """First entries of states, of seed 0 started at 0, 10, 20, ... and of seed 1 at -100, ..."""
    seen = []
    for number in range(rounds):
        starts = torch.tensor([10.0, -100.0])[:, None, None] * (number + torch.tensor([0.0, 1.0]))[
            :, None, None
        ].expand(2, source.starts, 3)
        rows, keep = source.generate(partial(fixed, 1), starts)
        seen.append((rows.obs[0, 0, 0].item(), keep[0, 0].item(), rows.terminated[0, 0].item()))
    return seen


def test_a_world_model_in_the_simulators_place_goes_on_to_its_horizon(pendulum):
    seen = visited(imagined(Counter(), pendulum, horizon=3), 7)
    assert [state for state, *_ in seen] == [0, 1, 2, 30, 31, 32, 60]
    assert not any(terminated for *_, terminated in seen)


def test_it_restarts_from_the_data_behind_a_terminal_a_filter_and_a_breakdown(pendulum):
    ended = visited(imagined(Counter(end=2), pendulum, horizon=9), 4)
    assert ended == [(0, True, False), (1, True, True), (20, True, True), (30, True, True)]
    stopped = visited(imagined(Counter(), pendulum, 9, StopAt()), 4)
    assert stopped == [
        (0, True, False),
        (1, True, False),
        (2, False, False),
        (30, False, False),
    ]
    broken = visited(imagined(Counter(broken=2), pendulum, horizon=9), 3)
    assert broken == [(0, True, False), (1, False, False), (20, False, False)]


class Remembering(Counter):
    """Its state, three times the start, is in no observation; each step adds one to it."""

    def initial_state(self, obs):
        return 3 * obs[..., :1].double()

    def step(self, obs, action, candidates=1, state=None):
        told = super().step(obs, action, candidates)
        return replace(told, reward=state[..., 0].float()[None], state=(state + 1)[None])


def test_the_state_of_a_model_is_carried_begun_anew_and_resumed(pendulum, tmp_path):
    def rewards(source, numbers):
        told = []
        for number in numbers:
            starts = torch.full((2, source.starts, 3), 10.0 * number)
            told.append(source.generate(partial(fixed, 1), starts)[0].reward[0, 0].item())
        return told

    first = imagined(Remembering(), pendulum, horizon=3)
    assert rewards(first, range(1, 6)) == [30, 31, 32, 120, 121]
    held = saved_and_loaded(first, tmp_path / "source.pt")
    second = imagined(Remembering(), pendulum, horizon=3)
    second.restore(held)
    assert rewards(second, range(6, 8)) == [122, 210]


def test_it_resumes_in_the_middle_of_a_rollout(pendulum, tmp_path):
    first = imagined(Counter(), pendulum, horizon=5, warmup=2)
    collect(first, partial(fixed, 1), 2, 3)
    held = saved_and_loaded(first, tmp_path / "source.pt")
    second = imagined(Counter(), pendulum, horizon=5, warmup=2)
    second.restore(held)
    a, b = (collect(source, partial(fixed, 1), 2, 9)[0] for source in (first, second))
    assert same(a, b)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"steps": 0}, r"source\.steps must be a whole number, at least 1"),
        ({"every": 0}, r"source\.every"),
        ({"warmup": -1}, r"source\.warmup must be at least 0"),
        ({"warmup": 100, "capacity": 50}, r"source\.capacity=50 does not hold the 101 rows"),
        ({"environments": 0}, r"simulator\.environments"),
        ({"perturbation": {"gravity": -1.0}}, r"simulator\.gravity=-1"),
        ({"perturbation": {"friction": 0.3}}, "Pendulum-v1 has no friction"),
    ],
)
def test_numbers_that_make_no_stream_are_refused(pendulum, changes, expected):
    with pytest.raises(ValueError, match=expected):
        stream(pendulum, **changes)
