"""What is measured: the contenders of each quantity, built from the shipped configuration.

Sizes of the task are those of Hopper (11 observations, 3 actions); the data are random, because
no time measured here depends on their values. Both sides start from the same weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from reverie.agents.sac import SAC
from reverie.benchmarks.speed import flops
from reverie.benchmarks.speed.plain_ensemble import PlainEnsemble, plain_rollouts
from reverie.benchmarks.speed.plain_sac import PlainSAC
from reverie.benchmarks.speed.same_weights import copy_agent, copy_ensemble
from reverie.benchmarks.speed.timing import Contender
from reverie.datasets.transition import Transition
from reverie.envs.specs import Spec
from reverie.training.compilation import wrapper
from reverie.training.launch.options import build_option, load_option
from reverie.world_models.ensemble import ProbabilisticEnsemble
from reverie.world_models.filters import UncertaintyPenalty
from reverie.world_models.optimiser import Adam
from reverie.world_models.sources import BranchedRollouts

OBS_DIM, ACTION_DIM = 11, 3
UPDATES = 1_000_000  # length of the run that the actor's schedule is told
PENALTY = 1.0
SPEC = Spec(
    env_id=None,
    obs_dim=OBS_DIM,
    action_dim=ACTION_DIM,
    action_low=(-1.0,) * ACTION_DIM,
    action_high=(1.0,) * ACTION_DIM,
)

REFERENCE = "reference"


@dataclass(frozen=True)
class Sizes:
    """How much of everything; network sizes come from the configuration."""

    batch: int
    stored_rows: int
    many_seeds: int
    starts: int
    horizon: int
    matrix: int


@dataclass(frozen=True)
class Quantity:
    """One line of the result.

    Attributes:
        key, unit: what is counted.
        contenders: what ours is measured against first: the reference, or, where there is none,
            ours as `eager`; then ours as it is and, where asked for, `compiled`.
        operations: floating-point operations of matrix products per unit.
        required: contender and the least ratio to the reference, None where nothing is required.
        allowance: share by which a ratio may miss it and still be called noise.
        slow: a call takes seconds, so that few must do.
    """

    key: str
    unit: str
    contenders: dict[str, Contender]
    operations: int
    required: tuple[str, float] | None
    allowance: float
    slow: bool = False

    @property
    def baseline(self) -> str:
        """What the others are divided by."""
        return next(iter(self.contenders))


def hyperparameters_of(group: str, option: str) -> dict[str, Any]:
    """An option without what only its construction reads."""
    settings = load_option(group, option)
    return {key: value for key, value in settings.items() if not key.startswith("_")}


def random_rows(count: int, device: torch.device) -> Transition:
    """Transitions `[count]` without structure."""
    obs = torch.randn(count, OBS_DIM, device=device)
    return Transition(
        obs=obs,
        action=torch.rand(count, ACTION_DIM, device=device) * 2 - 1,
        reward=torch.randn(count, device=device),
        next_obs=obs + 0.1 * torch.randn_like(obs),
        terminated=torch.rand(count, device=device) < 0.01,
        is_real=torch.ones(count, dtype=torch.bool, device=device),
    )


def make_agent(seeds: int, device: torch.device) -> SAC:
    """Ours, as `conf/agent/sac.yaml` builds it."""
    agent: SAC = build_option("agent", "sac", spec=SPEC, seeds=seeds, updates=UPDATES)
    return agent.to(device)


def make_plain_agent(agent: SAC, seed: int, device: torch.device) -> PlainSAC:
    """The reference with the weights of one seed of ours."""
    hyperparameters = hyperparameters_of("agent", "sac")
    ours = ("normalise_critic_obs", "critic_layer_norm", "imitation", "regulariser")
    for absent in ours:
        del hyperparameters[absent]
    plain = PlainSAC(
        obs_dim=OBS_DIM, action_dim=ACTION_DIM, updates=UPDATES, device=device, **hyperparameters
    )
    copy_agent(plain, agent, seed)
    return plain


def make_model(device: torch.device) -> ProbabilisticEnsemble:
    """Ours, as `conf/world_model/ensemble.yaml` builds it, fitted for one epoch to random rows.

    Nothing terminates, so that every step of every rollout counts as one transition on both sides.
    """
    model: ProbabilisticEnsemble = build_option(
        *("world_model", "ensemble"),
        changes={"termination": "none", "uncertainty": "max_aleatoric", "max_epochs": 1},
        spec=SPEC,
        seeds=1,
        seed=0,
    )
    model.to(device)
    rows = random_rows(1000, device)
    model.fit_rows(*table_of(rows), torch.arange(1000, device=device).unsqueeze(0))
    return model


def make_plain_model(model: ProbabilisticEnsemble, device: torch.device) -> PlainEnsemble:
    """The reference with the weights of ours."""
    plain = PlainEnsemble(
        inputs=OBS_DIM + ACTION_DIM,
        outputs=OBS_DIM + 1,
        members=model.members,
        hidden=model.hidden,
        activation=model.activation,
        learning_rate=model.learning_rate,
        weight_decay=model.weight_decay,
        log_variance_bounds=model.log_variance_bounds,
        bound_coefficient=model.bound_coefficient,
        device=device,
    )
    copy_ensemble(plain, model)
    return plain


def table_of(rows: Transition) -> tuple[Tensor, Tensor]:
    """Inputs and targets of a world model."""
    inputs = torch.cat([rows.obs, rows.action], -1)
    return inputs, torch.cat([rows.next_obs - rows.obs, rows.reward.unsqueeze(-1)], -1)


def ensemble_rows(sizes: Sizes, device: torch.device, compiling: bool) -> Quantity:
    """Drawing a minibatch per member from its bootstrap order, and one training step."""
    model = make_model(device)
    plain = make_plain_model(model, device)
    inputs, targets = table_of(random_rows(sizes.stored_rows, device))
    shape = (1, model.members, sizes.stored_rows)
    order = torch.randint(sizes.stored_rows, shape, device=device)
    batches = torch.arange(sizes.stored_rows, device=device).split(model.batch)[:-1]

    def reference() -> Callable[[], Any]:
        turn = cycle(batches)

        def call() -> None:
            position = next(turn)
            drawn = [order[0, i][position] for i in range(model.members)]
            plain.update([(inputs[index], targets[index]) for index in drawn])

        return call

    def ours() -> Callable[..., Any]:
        gaussians = make_model(device).gaussians.requires_grad_(True)
        optimiser = Adam(gaussians.trained_parameters(), model.learning_rate).to(device)

        def update(batch: Tensor, weight: Tensor) -> Tensor:
            return gaussians.update(optimiser, batch, weight)

        return update

    table = torch.cat([inputs, targets], -1)
    small_order = order.to(torch.int32)
    weight = torch.ones(model.batch, device=device)

    def fed(update: Callable[..., Any]) -> Callable[[], Any]:
        # As ProbabilisticEnsemble.fit_rows feeds it: the gather stays outside the compiled step.
        turn = cycle(batches)

        def call() -> None:
            drawn = small_order.index_select(-1, next(turn))
            update(table.index_select(0, drawn.flatten()).view(*drawn.shape, -1), weight)

        return call

    units = model.members * model.batch
    return Quantity(
        key="ensemble training",
        unit="member rows/s",
        contenders={
            REFERENCE: Contender(reference(), units),
            **variants(ours, units, device, compiling, fed),
        },
        operations=flops.ensemble_row(obs_dim=OBS_DIM, action_dim=ACTION_DIM, hidden=model.hidden),
        required=("eager", 1.0) if device.type == "cpu" else None,
        allowance=allowance_on(device),
    )


def rollout_transitions(sizes: Sizes, device: torch.device, compiling: bool) -> Quantity:
    """One rollout round: policy, ensemble and penalty for every step of every start."""
    agent, model = make_agent(1, device), make_model(device)
    plain_agent = make_plain_agent(agent, 0, device)
    plain = make_plain_model(model, device)
    starts = torch.randn(1, sizes.starts, OBS_DIM, device=device)
    source = BranchedRollouts(
        model=model,
        transition_filter=UncertaintyPenalty(penalty=PENALTY, unit="raw"),
        horizon=sizes.horizon,
        starts=sizes.starts,
        every=1,
        retain=1,
        actions="policy",
    )

    @torch.no_grad()
    def plain_policy(obs: Tensor) -> Tensor:
        return plain_agent.actor(obs)[0]

    def reference() -> dict[str, Tensor]:
        return plain_rollouts(plain, plain_policy, starts[0], sizes.horizon, PENALTY)

    units = sizes.horizon * sizes.starts
    return Quantity(
        key="model rollouts",
        unit="transitions/s",
        contenders={
            REFERENCE: Contender(reference, units),
            **variants(
                lambda: lambda: source.generate(agent.act, starts), units, device, compiling
            ),
        },
        operations=flops.rollout_step(
            obs_dim=OBS_DIM,
            action_dim=ACTION_DIM,
            policy_hidden=hyperparameters_of("agent", "sac")["hidden"],
            model_hidden=model.hidden,
            members=model.members,
        ),
        required=("eager", 1.0) if device.type == "cpu" else None,
        allowance=allowance_on(device),
    )


def variants(
    make: Callable[[], Callable[..., Any]],
    units: float,
    device: torch.device,
    compiling: bool,
    feed: Callable[[Callable[..., Any]], Callable[[], Any]] = lambda function: function,
) -> dict[str, Contender]:
    """Ours as it is and, where asked for, through the compiler, each with objects of its own."""
    found = {"eager": Contender(feed(make()), units)}
    if compiling:
        found["compiled"] = Contender(feed(wrapper(True, device)(make())), units)
    return found


def allowance_on(device: torch.device) -> float:
    # The CPU claim is one of parity, where a few percent of noise would decide.
    return 0.03 if device.type == "cpu" else 0.0
