"""What other libraries hold in memory, as stand-ins with their attributes."""

from types import SimpleNamespace

import numpy as np

LOW, HIGH = np.array([0.0, -3.0]), np.array([10.0, 3.0])
BOX = {"action_low": LOW.tolist(), "action_high": HIGH.tolist()}
# Lengths of episodes and whether they terminate; the others end at the time limit of 4 steps.
EPISODES = ((2, True), (4, False), (3, True), (4, False))


class Episode:
    """Observations (number, step) `[T + 1, 2]`, actions in the box, rewards."""

    def __init__(self, number, length, terminated):
        rng = np.random.default_rng(number)
        self.obs = np.stack([np.full(length + 1, number), np.arange(length + 1)], 1) * 1.0
        self.acts = rng.uniform(LOW, HIGH, (length, 2))
        self.rews = self.obs[:-1].sum(1)
        self.terminated = terminated


def recorded():
    return [Episode(number, *each) for number, each in enumerate(EPISODES)]


class RingBuffer:
    """`ReplayBuffer` of Stable-Baselines3, which CleanRL took over: what it keeps of `add`.

    Args:
        actions: as stored: `scaled` to [-1, 1], or as the environment takes them, `raw`.
        dones: of every end with `timeouts` beside, of `every` end, or of `terminations` only.
        reset_after: of these ends the stored successor is the start of the next episode.
    """

    def __init__(self, size, environments, *, actions, dones, shared=False, reset_after=()):
        self.observations = np.zeros((size, environments, 2), np.float32)
        self.actions = np.zeros((size, environments, 2), np.float32)
        self.rewards, self.dones, self.timeouts = np.zeros((3, size, environments), np.float32)
        if not shared:
            self.next_observations = np.zeros_like(self.observations)
        self.action_space = SimpleNamespace(low=LOW, high=HIGH)
        self.handle_timeout_termination = dones == "timeouts"
        self.optimize_memory_usage, self.buffer_size, self.n_envs = shared, size, environments
        self.pos, self.full = 0, False
        self._kind, self._dones, self._reset_after = actions, dones, reset_after

    def record(self, *streams):
        """The episodes of each environment, all of the same number of steps."""
        rows = [[row for each in stream for row in self._rows(each)] for stream in streams]
        for step in zip(*rows, strict=True):
            for column, values in zip(
                ("observations", "actions", "rewards", "dones", "timeouts"),
                zip(*(row[:5] for row in step), strict=True),
                strict=True,
            ):
                getattr(self, column)[self.pos] = values
            after = [row[5] for row in step]
            if self.optimize_memory_usage:
                self.observations[(self.pos + 1) % self.buffer_size] = after
            else:
                self.next_observations[self.pos] = after
            self.pos += 1
            if self.pos == self.buffer_size:
                self.full, self.pos = True, 0
        return self

    def _rows(self, episode):
        for t, (action, reward) in enumerate(zip(episode.acts, episode.rews, strict=True)):
            ended = t + 1 == len(episode.acts)
            limit = ended and not episode.terminated
            scaled = 2 * (action - LOW) / (HIGH - LOW) - 1
            kind = "limit" if limit else "terminal"
            reset = ended and kind in self._reset_after
            yield (
                episode.obs[t],
                scaled if self._kind == "scaled" else action,
                reward,
                ended and (episode.terminated or self._dones != "terminations"),
                limit and self._dones == "timeouts",
                [episode.obs[t][0] + 1, 0] if reset else episode.obs[t + 1],
            )


def padded(episodes, extra=True):
    longest = max(len(each.acts) for each in episodes)
    pad = lambda column, steps: np.stack(  # noqa: E731
        [np.pad(each, ((0, steps - len(each)), (0, 0)), constant_values=7) for each in column]
    )
    return {
        "observations": pad([each.obs for each in episodes], longest + 1)[:, : longest + extra],
        "actions": pad([each.acts for each in episodes], longest),
        "rewards": pad([each.rews[:, None] for each in episodes], longest)[..., 0],
        "terminals": np.array([each.terminated for each in episodes]),
    }


def trajectories(episodes, infos=True):
    """`terminal` is true for every finished episode, whatever ended it."""
    return [
        SimpleNamespace(
            obs=each.obs,
            acts=each.acts,
            rews=each.rews,
            terminal=True,
            infos=np.array(
                [{}] * (len(each.acts) - 1) + [{"TimeLimit.truncated": not each.terminated}]
            )
            if infos
            else None,
        )
        for each in episodes
    ]


def d3rlpy_episodes(episodes):
    """Without what follows their last action."""
    return [
        SimpleNamespace(
            observations=each.obs[:-1],
            actions=each.acts,
            rewards=each.rews[:, None],
            terminated=each.terminated,
        )
        for each in episodes
    ]
