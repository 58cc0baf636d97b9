"""Shared fixtures; switches the shape checker on for everything imported after it."""

import os

import pytest
import torch
from jaxtyping import install_import_hook

# A compiled function cannot look into the checker, so tests of compilation run without it.
CHECKED = [f"reverie.{layer}" for layer in ("agents", "world_models", "datasets", "envs")]
if os.environ.get("REVERIE_SHAPE_CHECKS", "1") == "1":
    install_import_hook(CHECKED, "beartype.beartype")


@pytest.fixture(autouse=True)
def _seeded_and_apart(tmp_path_factory, monkeypatch):
    """Every test starts from the same random state and writes no cache of the user's."""
    torch.manual_seed(0)
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.fixture
def spec():
    from reverie.envs.specs import Spec

    return Spec(
        env_id=None, obs_dim=3, action_dim=2, action_low=(-1.0, -1.0), action_high=(1.0, 1.0)
    )


@pytest.fixture
def make_batch():
    """Random transitions of any leading shape."""
    from reverie.datasets.transition import Transition

    def make(*lead, obs_dim=3, action_dim=2):
        return Transition(
            obs=torch.randn(*lead, obs_dim),
            action=torch.rand(*lead, action_dim) * 2 - 1,
            reward=torch.randn(*lead),
            next_obs=torch.randn(*lead, obs_dim),
            terminated=torch.rand(*lead) < 0.2,
            is_real=torch.rand(*lead) < 0.5,
        )

    return make


@pytest.fixture
def make_sac():
    """A small SAC; keywords replace its numbers."""
    from reverie.agents.sac import SAC

    def make(spec, **changes):
        numbers = {
            "seeds": 1,
            "updates": 1000,
            "critics": 2,
            "hidden": [16, 16],
            "activation": "relu",
            "log_std_bounds": [-5.0, 2.0],
            "actor_learning_rate": 1e-3,
            "critic_learning_rate": 1e-3,
            "temperature_learning_rate": 1e-3,
            "actor_cosine": False,
            "discount": 0.9,
            "target_rate": 0.005,
            "initial_temperature": 1.0,
            "max_temperature": 1.0,
            "target_entropy": None,
            "entropy_in_target": True,
            "order": ["critic", "policy"],
            "normalise_critic_obs": False,
            "regulariser": None,
        }
        return SAC(spec=spec, **{**numbers, **changes})

    return make
