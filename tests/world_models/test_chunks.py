"""What chunks are for: fewer predictions, of less that is noise, to the same control step."""

import numpy as np
import torch

from reverie import datasets
from reverie.training.launch.options import build_option

STEPS = 50
A = np.array([[0.99, 0.1], [-0.1, 0.97]])
B = np.array([[0.0, 0.2]])


def play(random, episodes, length):
    """States [E, T + 1, 2] of a damped oscillator, and its actions [E, T, 1]."""
    states = np.zeros((episodes, length + 1, 2))
    states[:, 0] = random.normal(size=(episodes, 2))
    actions = random.uniform(-1, 1, (episodes, length, 1))
    for t in range(length):
        states[:, t + 1] = states[:, t] @ A.T + actions[:, t] @ B
    return states, actions


def test_chunks_of_ten_err_less_than_single_steps_where_states_are_noisy():
    """A linear system, seen with noise: error after 50 steps, as many epochs for both (MAC)."""
    random = np.random.default_rng(0)
    states, actions = play(random, 100, 100)
    seen = states + 0.3 * random.normal(size=states.shape)
    data = datasets.load(
        {
            "observations": seen[:, :-1].reshape(-1, 2),
            "actions": actions.reshape(-1, 1),
            "rewards": np.zeros(10_000),
            "next_observations": seen[:, 1:].reshape(-1, 2),
            "terminals": np.zeros(10_000, bool),
            "timeouts": np.tile(np.arange(100) == 99, 100),
        }
    )
    truth, played = play(random, 50, STEPS)
    played = torch.tensor(played[..., 0], dtype=torch.float32)

    def error_of(chunk):
        rows = datasets.chunk(data, chunk, discount=1.0)
        torch.manual_seed(0)
        model = build_option(
            *("world_model", "ensemble"),
            changes={
                **{"termination": "none", "members": 3, "elites": 2, "hidden": [64, 64]},
                **{"weight_decay": [1e-5] * 3, "max_epochs": 20, "patience": 20},
            },
            spec=rows.spec,
            seeds=1,
            seed=0,
        )
        model.fit(rows)
        state = torch.tensor(truth[:, 0], dtype=torch.float32).unsqueeze(0)
        for t in range(0, STEPS, chunk):
            state = model.expect(state, played[None, :, t : t + chunk]).next_obs[0]
        return float((state[0].numpy() - truth[:, -1]).std() / states.std())

    assert error_of(10) < 0.8 * error_of(1)
