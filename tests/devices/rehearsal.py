"""Every method of `conf/`, composed as a run composes it, small enough for a rehearsal.

A preset joins by its YAML in `conf/algorithm/`, and an option of the groups below by its own: it is
put into a preset that has use for its group. What needs more than that says so in `NEEDS`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import yaml
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from reverie.datasets.build import build
from reverie.datasets.dataset import Dataset
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.training.launch.compose import build_run
from reverie.training.launch.hyperparameters import compose_run
from reverie.training.launch.options import CONF, options
from reverie.training.launch.requirements import require_sense
from reverie.training.ope.verdict import Verdict
from reverie.training.run import Run

HOSTS: Mapping[str, tuple[str, ...]] = {
    "agent": ("sac", "mopo", "sac_sim"),
    "regulariser": ("sac",),
    "world_model": ("mopo",),
    "forcing": ("mopo",),
    "dynamics_reward": ("morec_mopo",),
    "generator": ("pgd", "synther"),
    "noise_distribution": ("pgd",),
    "condition": ("pgd",),
    "behaviour": ("pgd",),
    "simulator": ("sac_sim",),
    "sampler": ("pgd", "synther"),
    "guidance": ("pgd",),
    "source": ("mopo", "pgd", "synther", "sac_sim"),
    "warm_start": ("pgd",),
    "filter": ("mopo",),
    "online": ("sac_online",),
    "model_updates": ("mopo",),
    "pretraining": ("sac",),
}
"""By group, presets that may have use for an option of it; the first that takes it has it."""
NEEDS: Mapping[str, tuple[str, ...]] = {
    "behaviour/clone": ("guidance.behaviour_ratio=0.5",),
    "condition/returns": ("guidance=returns",),
    "guidance/returns": ("condition=returns",),
    "guidance/soft_value": ("sampler=soft_value",),
    "sampler/soft_value": ("guidance=soft_value",),
    "sampler/best_noise": ("guidance=soft_value",),
    # Its measurement, once before the first samples, is by torch.func, which knows no ghosts.
    "sampler/dpm_solver_v3": ("sampler.measured=false",),
    "simulator/world_model": ("world_model=ensemble",),
    "filter/morec": ("dynamics_reward=adversarial",),
}
"""What an option asks for beside it, where the preset does not have it."""
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "spectral penalty": (
        "algorithm=sac",
        "regulariser=spectral",
        "agent.regulariser.coefficient=1",
    ),
    "pgd attack": ("algorithm=iql", "regulariser=adversarial", "agent.regulariser.attack=pgd"),
    "uniform attack": (
        "algorithm=sac",
        "regulariser=adversarial",
        "agent.regulariser.attack=uniform",
    ),
    "dropout": ("algorithm=mopo", "world_model.uncertainty=dropout", "world_model.dropout=0.1"),
    "masks of rollouts": (
        *("algorithm=mopo", "world_model.rollout_member=rollout"),
        *("world_model.dropout=0.1", "world_model.rollout_dropout=0.2"),
    ),
    "spread of means": ("algorithm=mopo", "world_model.uncertainty=ensemble_std"),
    "pairs of means": ("algorithm=mopo", "world_model.uncertainty=pairwise_difference"),
    "a halt and refits": (
        *("algorithm=mbpo_online", "online.refit_every=2", "updates=6", "filter=halt"),
    ),
    "errors of a solver": (
        *("algorithm=mopo", "world_model=neural_ode", "world_model.local_regularisation=1"),
    ),
    "forced jumps": ("algorithm=admpo", "forcing=adaptive"),
    "forced fields": ("algorithm=mopo", "world_model=neural_ode", "forcing=alpha"),
    "learned termination": ("algorithm=mopo", "world_model.termination=learned"),
    "one model for all": ("algorithm=mopo", "world_model.per_seed=false"),
    "one equation of many": ("algorithm=sindy_rl", "world_model.prediction=member"),
    "refits": ("algorithm=mbpo_online", "online.refit_every=2", "updates=6"),
    "model for a simulator": ("algorithm=h2o", "simulator=world_model", "world_model=ensemble"),
    "critics that choose": (
        *("algorithm=pgd", "sampler=soft_value", "guidance=soft_value", "guidance.value=critic"),
    ),
    "gradients of equations": ("algorithm=apg", "world_model=sindy", "agent.penalty=0"),
    "gradients of the task": ("algorithm=apg", "world_model=true_dynamics"),
    "whole actions": (
        *("algorithm=apg", "agent.integer_actions=true", "agent.terminal_weight=0"),
        "agent.penalty=0",
    ),
    "value gap": ("algorithm=mopo", "value_gap.starts=2"),
    "slopes": ("algorithm=mopo", "lipschitz.states=8", "lipschitz.steps=2"),
}
"""Values of settings that lead through other code, by a name for people."""

SMALL: Mapping[str, Any] = {
    **{"threads": 1, "device": "cpu", "compile": "false", "seeds": 2, "budget": "paper"},
    **{"updates": 4, "batch_size": 42, "log_every": 2, "checkpoint_every": 0},
    **{"evaluate.every": 0, "probe_starts": 4, "value_gap.starts": 0},
}
"""Of the run itself."""
LIMITS: Mapping[str, int] = {
    **{"horizon": 2, "starts": 8, "every": 2, "retain": 1, "records": 6, "chunk": 4},
    **{"lanes": 4, "warmup": 2, "elites": 2, "members": 3, "samples": 2, "environments": 1},
    **{"steps": 3, "table": 20, "smoothing": 5, "length": 8, "stride": 4, "blocks": 2},
    **{"hidden": 8, "epochs": 1, "player_hidden": 8, "width": 16, "max_epochs": 1, "updates": 2},
    **{"iterations": 4, "refit_every": 2, "behaviour_updates": 2, "restart_every": 2},
    **{"snapshot_every": 1, "keep": 2, "thin": 1, "gate_steps": 2, "draws": 2, "critics": 4},
    **{"heldout_records": 8, "measure_every": 2, "batch": 64, "behaviour_batch": 16},
    **{
        "policy_delay": 2,
        "candidates": 3,
        "heldout_episodes": 2,
        "rows": 32,
        "capacity": 200,
        "minimal_gap": -10,
    },
}
"""Largest values of the parts' settings, by their name, wherever they lie."""


WIDTHS = {"hidden", "player_hidden", "width", "members", "elites", "critics", "batch"}
"""What a wide rehearsal leaves as it is."""


@cache
def names() -> list[str]:
    """Compositions by name: presets, options that no preset has, and variants of both."""
    presets = [each for each in options("algorithm") if each != "mpc"]  # nothing is learned
    covered = set().union(*map(_chosen, presets))
    found = [
        f"{group}/{option}" for group in HOSTS for option in options(group) if option != "none"
    ]
    return [
        *(f"algorithm/{preset}" for preset in presets),
        *(name for name in found if name not in covered),
        *VARIANTS,
    ]


def typed_for(name: str) -> tuple[str, ...]:
    """What is typed for a composition."""
    if name in VARIANTS:
        return VARIANTS[name]
    group, _, option = name.partition("/")
    if group == "algorithm":
        return (f"algorithm={option}",)
    return _first_that_takes(HOSTS[group], f"{group}={option}", *NEEDS.get(name, ()))


def _chosen(preset: str) -> set[str]:
    """Options that a preset names."""
    listed = yaml.safe_load((CONF / "algorithm" / f"{preset}.yaml").read_text())["defaults"]
    pairs = [pair for each in listed if isinstance(each, dict) for pair in each.items()]
    return {f"{group.removeprefix('override /')}/{option}" for group, option in pairs}


def _first_that_takes(hosts: tuple[str, ...], *typed: str) -> tuple[str, ...]:
    reasons = []
    for host in hosts:
        try:
            compose_small(f"algorithm={host}", *typed)
        except Mistake as error:
            reasons.append(f"{host}: {error}")
        else:
            return (f"algorithm={host}", *typed)
    raise ValueError(f"no preset takes {typed}; say in NEEDS what it needs. {reasons}")


def compose_small(*typed: str, wide: bool = False) -> DictConfig:
    """A run's settings, checked, then cut down, of networks and batches only unless `wide`."""
    return OmegaConf.create(deepcopy(_settings_of(typed, wide)))


@cache  # the ghost's run and the one it is compared with have the same
def _settings_of(typed: tuple[str, ...], wide: bool) -> dict[str, Any]:
    given = {key: value for key, value in SMALL.items() if not (wide and key == "batch_size")}
    config = compose_run([*(f"{key}={value}" for key, value in given.items()), *typed])
    plain: Any = OmegaConf.to_container(config, resolve=True)
    require_sense(config, plain)
    limits = {key: most for key, most in LIMITS.items() if not (wide and key in WIDTHS)}
    parts = {key: value for key, value in plain.items() if isinstance(value, dict)}
    small = _shrink(parts, limits)
    for key in ("evaluate", "value_gap", "lipschitz", "dataset"):
        small[key] = plain[key]
    return {**plain, **small}


def _shrink(value: Any, limits: Mapping[str, int], limit: int | None = None) -> Any:
    if isinstance(value, dict):
        return {key: _shrink(each, limits, limits.get(key)) for key, each in value.items()}
    if isinstance(value, list):
        return [_shrink(each, limits, limit) for each in value]
    if limit is None or isinstance(value, bool | str):
        return value
    return limit if value is None else min(value, limit)


def pendulum(rows: int = 200, episode: int = 20) -> Dataset:
    """Swings of a pendulum under random torques: a task with a known rule and true dynamics."""
    rng = np.random.default_rng(0)
    angle, speed = rng.uniform(-3, 3, rows), rng.uniform(-4, 4, rows)
    torque = rng.uniform(-2, 2, rows)
    faster, turned = np.empty(rows), np.empty(rows)
    for row in range(rows):
        if row % 2:  # else at random, to see more of the states
            angle[row], speed[row] = turned[row - 1], faster[row - 1]
        faster[row] = np.clip(
            speed[row] + 0.05 * (15 * np.sin(angle[row]) + 3 * torque[row]), -8, 8
        )
        turned[row] = angle[row] + 0.05 * faster[row]
    last = np.arange(rows) % episode == episode - 1
    return build(
        name="rehearsal",
        spec=Spec(
            env_id="Pendulum-v1", obs_dim=3, action_dim=1, action_low=(-2.0,), action_high=(2.0,)
        ),
        obs=np.stack([np.cos(angle), np.sin(angle), speed], 1).astype(np.float32),
        action=torque[:, None].astype(np.float32),
        reward=(-(angle**2) - 0.1 * speed**2 - 0.001 * torque**2).astype(np.float32),
        terminated=np.arange(rows) % (4 * episode) == 4 * episode - 1,
        truncated=last,
        next_obs=np.stack([np.cos(turned), np.sin(turned), faster], 1).astype(np.float32),
        reference=None,
        origin={},
        clip_actions=False,
    )


class BriefVerdict(Verdict):
    """Rolls out a dozen steps: no more count where the future is worth little."""

    def discount_of(self, own: float) -> float:
        return 0.5


@contextmanager
def rehearse(*typed: str, device: str = "cpu", wide: bool = False) -> Iterator[Run]:
    """A small run, not trained yet, that leaves no file behind."""
    with TemporaryDirectory() as folder:
        config = compose_small(*typed, wide=wide)
        with open_dict(config):
            config.cache = folder
        # pick_device asks for CUDA's devices only, so any other name that torch knows will do.
        config.device = device
        run = build_run(config, Console(quiet=True), data=pendulum())
        if run.verdict is not None:
            run.verdict = BriefVerdict(**vars(run.verdict))
        yield run


def finished(run: Run) -> dict[str, torch.Tensor]:
    """Train it; gives what the agent learnt, on the host."""
    run.train(None, Console(quiet=True))
    return {name: value.cpu() for name, value in run.agent.state_dict().items()}
