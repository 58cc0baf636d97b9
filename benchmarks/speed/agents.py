"""Updates of every agent of `conf/agent/`, sampling included, beside plain references.

An agent without a reference is measured against itself: compiled against eager. Operations are
those that torch counts in eager updates; products that are no matrix products, such as a critic's
single output, are not among them.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from reverie.agents.base import Agent
from reverie.benchmarks.speed.plain_agents import PlainCQL, PlainEDAC, PlainIQL, PlainTD3BC
from reverie.benchmarks.speed.plain_sac import PlainReplay, PlainSAC
from reverie.benchmarks.speed.quantities import (
    ACTION_DIM,
    OBS_DIM,
    REFERENCE,
    SPEC,
    UPDATES,
    Quantity,
    Sizes,
    allowance_on,
    hyperparameters_of,
    make_model,
    random_rows,
    variants,
)
from reverie.benchmarks.speed.same_weights import copy_agent, copy_iql, copy_td3_bc
from reverie.benchmarks.speed.timing import Contender
from reverie.datasets.dataset import Dataset
from reverie.datasets.replay import Mixture, Replay
from reverie.training.compilation import wrapper
from reverie.training.launch.options import build_option, learners
from reverie.world_models.base import Gaussian
from reverie.world_models.diffusion.behaviour import BehaviourClone

MAIN = ("sac", "td3_bc", "iql", "cql")
"""Those that are measured with several seeds too."""
SCALED = ("sac", "td3_bc")
SEEDS = (1, 4, 8, 16)
"""Of the rows that say what one more seed costs."""
PLAIN: Mapping[str, tuple[type, Callable[..., None]]] = {
    "sac": (PlainSAC, copy_agent),
    "cql": (PlainCQL, copy_agent),
    "edac": (PlainEDAC, copy_agent),
    "td3_bc": (PlainTD3BC, copy_td3_bc),
    "iql": (PlainIQL, copy_iql),
}
"""The reference of an agent, and what copies weights into it."""
OURS_ALONE = {
    *("normalise_critic_obs", "critic_layer_norm", "actor_layer_norm", "regulariser"),
    "imitation",
    *("normalise_obs", "normalise_rewards", "reward_offset", "critic_steps", "max_q_backup"),
    *("gap_limit", "weight_learning_rate", "conservative_states", "diversity_critics"),
    *("hidden_bias", "actor_output_bound", "critic_output_bound"),
}
"""Switches that references do not have: they are off in `conf/`, or act before the first update."""
ORDERED = ("sac", "cql", "edac")
"""References that take an order of their steps; the others have the one of `conf/`."""
COUNTED = 8  # updates whose operations are counted, a multiple of every policy's delay
EPISODE = 1000
MIXED = ("mobile", "leq", "darc", "h2o", "h2o_plus")
"""Agents that learn from made rows too: half of theirs are not real."""


def random_dataset(count: int, device: torch.device) -> Dataset:
    """Rows without structure, in episodes of Hopper's length that go on from row to row."""
    rows = random_rows(count, device)
    last = torch.arange(count, device=device) % EPISODE == EPISODE - 1
    following = {"next_obs": rows.obs.roll(-1, 0), "terminated": rows.terminated & last}
    return Dataset(
        name="random",
        spec=SPEC,
        transitions=type(rows)(**{**vars(rows), **following}),
        truncated=last & ~rows.terminated,
        valid_next=torch.ones(count, dtype=torch.bool, device=device),
        episode_starts=torch.arange(0, count, EPISODE),
    )


def make_any(name: str, seeds: int, device: torch.device) -> Agent:
    """Ours, as `conf/agent/` builds it, with a world model where it learns from one."""
    agent: Agent = build_option("agent", name, spec=SPEC, seeds=seeds, updates=UPDATES)
    if name in ("mobile", "leq", "analytic"):
        agent.attach(make_model(device))
    if name == "kl_bc":
        agent.follow(make_clone(device))
    return agent.to(device)


def make_clone(device: torch.device) -> Gaussian:
    """What `agent=kl_bc` stays near: a clone as it starts, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clone: BehaviourClone = build_option("behaviour", "clone", spec=SPEC, seeds=1, seed=0)
    return clone.to(device).gaussian


def make_updates(
    name: str, seeds: int, sizes: Sizes, data: Dataset, device: torch.device
) -> tuple[Agent, Callable[[], Any]]:
    """An agent, and what draws a batch and learns from it."""
    agent = make_any(name, seeds, device)
    agent.prepare(data)
    rows = agent.recorded(data)
    if name in MIXED:
        half = torch.arange(len(data), device=device) % 2 == 0
        rows = type(rows)(**{**vars(rows), "is_real": half})
    mixture = Mixture({"real": Replay.of(rows)}, {"real": sizes.batch}, seeds=seeds).to(device)
    return agent, lambda: agent.update(mixture.sample())


def make_plain(name: str, agent: Agent, seed: int, device: torch.device) -> Any:
    """The reference of an agent, with the weights of one of its seeds."""
    kind, copy = PLAIN[name]
    settings = hyperparameters_of("agent", name)
    left_out = OURS_ALONE if name in ORDERED else OURS_ALONE | {"order", "actor_cosine"}
    plain = kind(
        obs_dim=OBS_DIM,
        action_dim=ACTION_DIM,
        updates=UPDATES,
        device=device,
        **{key: value for key, value in settings.items() if key not in left_out},
    )
    copy(plain, agent, seed)
    return plain


def operations_of(update: Callable[[], Any], seeds: int) -> int:
    """Floating-point operations of matrix products in an update of one agent."""
    with FlopCounterMode(display=False) as counter:
        for _ in range(COUNTED):
            update()
    return counter.get_total_flops() // (COUNTED * seeds)


def agent_updates(
    name: str, seeds: int, sizes: Sizes, device: torch.device, compiling: bool
) -> Quantity:
    """Sampling and learning, as the training loop calls them.

    The reference trains its agents one after another, so its rate for many seeds is that for one:
    every turn goes to one agent, the next call to the same one.
    """
    data = random_dataset(sizes.stored_rows, device)
    first, counted = make_updates(name, seeds, sizes, data, device)
    contenders: dict[str, Contender] = {}
    required: tuple[str, float] | None = None
    if name in PLAIN:
        plain, replay = make_plain(name, first, 0, device), PlainReplay(data.transitions)
        contenders[REFERENCE] = Contender(lambda: plain.update(*replay.sample(sizes.batch)), 1)
        on_gpu = ("compiled", 5.0 if seeds == 1 else 40.0) if name == "sac" else None
        required = ("eager", 1.0) if device.type == "cpu" else on_gpu
    elif first.gains_by_compiling and compiling and device.type == "cpu":
        required = ("compiled", 1.0)
    made = partial(make_updates, name, seeds, sizes, data, device)
    contenders |= variants(lambda: made()[1], seeds, device, compiling)
    return Quantity(
        key=f"{name} updates, " + ("seeds=1" if seeds == 1 else f"sum of {seeds} seeds"),
        unit="updates/s",
        contenders=contenders,
        operations=operations_of(counted, seeds),
        required=required,
        allowance=allowance_on(device),
    )


def seed_updates(name: str, sizes: Sizes, device: torch.device, compiling: bool) -> Quantity:
    """Updates of all seeds together; where each costs as much as one alone, their sum is equal."""
    data = random_dataset(sizes.stored_rows, device)
    wrap = wrapper(compiling and device.type != "cpu", device)
    made = {seeds: make_updates(name, seeds, sizes, data, device)[1] for seeds in SEEDS}
    return Quantity(
        key=f"{name} updates by seeds",
        unit="updates/s",
        contenders={
            f"{seeds} seed{'s' * (seeds > 1)}": Contender(wrap(update), seeds)
            for seeds, update in made.items()
        },
        operations=operations_of(made[1], 1),
        required=(f"{SEEDS[-1]} seeds", 1.0),
        allowance=allowance_on(device),
    )


def builders(
    sizes: Sizes, device: torch.device, compiling: bool
) -> Mapping[str, Callable[[], Quantity]]:
    """Every quantity of agents by a short name."""
    given = (sizes, device, compiling)
    alone = {name: partial(agent_updates, name, 1, *given) for name in learners()}
    several = {
        f"{name}-seeds{sizes.many_seeds}": partial(agent_updates, name, sizes.many_seeds, *given)
        for name in MAIN
    }
    by_seeds = {f"{name}-by-seeds": partial(seed_updates, name, *given) for name in SCALED}
    return {**alone, **several, **by_seeds}
