"""Files in the layouts of NeoRL-2 and OGBench, small ones.

    python -m tests.datasets.benchmark_files FOLDER

writes one of each kind: Pipeline-train.npz and DMSD-train.npz, recorded in our own simulators, and
pointmaze-medium-navigate-v0.npz, a walk on a plane.
"""

import argparse
from pathlib import Path

import gymnasium
import numpy as np

import reverie.envs.make  # noqa: F401, registers the simulators
from reverie.envs.neorl2 import TASKS
from reverie.envs.ogbench import ROOMS


def neorl2_columns(task, lengths, ends):
    """Episodes of a counter, of which the true successor is obs + 1, a gap between two.

    `ends` says how each ends: t terminal, l time limit, c cut.
    """
    known = TASKS[task]
    obs, done, truncated, start = [], [], [], 0
    for length, end in zip(lengths, ends, strict=True):
        obs += range(start, start + length)
        start += length + 100
        done += [False] * (length - 1) + [end == "t"]
        truncated += [False] * (length - 1) + [end == "l"]
    obs = np.repeat(np.array(obs, np.float32)[:, None], len(known.obs_names), 1)
    rng = np.random.default_rng(0)
    return {
        "obs": obs,
        "action": rng.uniform(-1, 1, (len(obs), len(known.action_names))).astype(np.float32),
        "next_obs": obs + 1,
        "reward": obs[:, 0] / 10,
        "done": np.array(done, np.float32),
        "truncated": np.array(truncated, np.float32),
    }


def record(task, episodes, seed=0):
    """Columns of a clumsy controller with noise in our own simulator of a task."""
    env, rng = gymnasium.make(TASKS[task].env_id), np.random.default_rng(seed)
    rows = {key: [] for key in ("obs", "action", "next_obs", "reward", "done", "truncated")}
    for episode in range(episodes):
        obs, _ = env.reset(seed=seed + episode)
        ended = False
        while not ended:
            action = rng.normal(controller(task, obs), 0.3)
            action = action.clip(-1, 1).astype(np.float32)
            following, reward, done, truncated, _ = env.step(action)
            for key, value in zip(
                rows, (obs, action, following, reward, done, truncated), strict=True
            ):
                rows[key].append(value)
            obs, ended = following, done or truncated
    env.close()
    return {key: np.array(values, np.float32) for key, values in rows.items()}


def controller(task, obs):
    if task == "Pipeline":  # what is on its way is the flow and what was asked for since
        on_its_way = obs[0] + obs[27:46].sum()
        return np.array([0.2 * (obs[1] - on_its_way)])
    error, speed = obs[4:6] - obs[:2], obs[2:4]
    return 1.2 * error - 1.5 * speed + 0.07 * obs[4:6]


def ogbench_columns(room, lengths, scale=1.0):
    """Trajectories of a counter; each has one observation more than its length."""
    known = ROOMS[room]
    obs, terminals, start = [], [], 0
    for length in lengths:
        obs += range(start, start + length + 1)
        start += length + 101
        terminals += [False] * length + [True]
    obs = scale * np.repeat(np.array(obs, np.float32)[:, None], known.obs_dim, 1)
    rng = np.random.default_rng(0)
    return {
        "observations": obs.astype(np.float32),
        "actions": rng.uniform(-1, 1, (len(obs), known.action_dim)).astype(np.float32),
        "terminals": np.array(terminals),
    }


def walks(trajectories, steps, seed=0):
    """Walks of a point in the plane of the medium maze, walls aside, between its goals."""
    rng = np.random.default_rng(seed)
    places = np.array([goal.places[0] for goal in ROOMS["pointmaze-medium"].goals])
    rows = {key: [] for key in ("observations", "actions", "terminals")}
    for _ in range(trajectories):
        point = rng.uniform(0.0, 20.0, 2)
        goal = places[rng.integers(len(places))]
        for step in range(steps + 1):
            if np.linalg.norm(goal - point) < 0.5:
                goal = places[rng.integers(len(places))]
            way = (goal - point) / max(np.linalg.norm(goal - point), 1.0)
            action = (way + rng.normal(0.0, 0.3, 2)).clip(-1, 1)
            rows["observations"].append(point)
            rows["actions"].append(action)
            rows["terminals"].append(step == steps)
            point = point + 0.2 * action
    columns = {key: np.array(values, np.float32) for key, values in rows.items()}
    return {**columns, "qpos": columns["observations"], "qvel": columns["actions"]}


def write(path, columns):
    np.savez(path, **columns)
    return path


def write_all(folder):
    """One file of each kind."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        write(folder / "Pipeline-train.npz", record("Pipeline", 5)),
        write(folder / "DMSD-train.npz", record("DMSD", 40)),
        write(folder / "pointmaze-medium-navigate-v0.npz", walks(20, 500)),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    print(*write_all(parser.parse_args().folder), sep="\n")
