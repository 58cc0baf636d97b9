"""Copies our batched weights into the separate layers of the reference, so both start alike."""

import torch
from torch import nn

from reverie.agents.base import Agent
from reverie.agents.iql import IQL
from reverie.agents.sac import SAC
from reverie.agents.td3_bc import TD3BC
from reverie.benchmarks.speed.plain_agents import PlainIQL, PlainTD3BC
from reverie.benchmarks.speed.plain_ensemble import PlainEnsemble
from reverie.benchmarks.speed.plain_sac import PlainSAC
from reverie.world_models.ensemble import ProbabilisticEnsemble
from reverie.world_models.networks import BatchedLinear, BatchedMLP


def layers_of(plain: nn.Module) -> list[nn.Linear]:
    """The affine layers of a plain network, in order."""
    return [part for part in plain.modules() if isinstance(part, nn.Linear)]


@torch.no_grad()
def copy_layer(plain: nn.Linear, batched: BatchedLinear, slot: tuple[int, ...]) -> None:
    """One slot of a batched layer; `nn.Linear` keeps its weight as `[out, in]`."""
    plain.weight.copy_(batched.weight[slot].T)
    plain.bias.copy_(batched.bias[slot].flatten())


def copy_network(plain: nn.Module, batched: BatchedMLP, slot: tuple[int, ...]) -> None:
    """One slot of a batched perceptron."""
    for layer, source in zip(layers_of(plain), batched.layers, strict=True):
        assert isinstance(source, BatchedLinear)
        copy_layer(layer, source, slot)


@torch.no_grad()
def copy_agent(plain: PlainSAC, ours: SAC, seed: int) -> None:
    """All networks and the temperature of one seed."""
    *trunk, heads = (part for part in ours.actor.modules() if isinstance(part, BatchedLinear))
    for layer, source in zip(layers_of(plain.actor.trunk), trunk, strict=True):
        copy_layer(layer, source, (seed,))
    # Our last layer holds both heads side by side.
    for half, head in enumerate((plain.actor.mean, plain.actor.log_std)):
        head.weight.copy_(heads.weight[seed].T.chunk(2)[half])
        head.bias.copy_(heads.bias[seed].flatten().chunk(2)[half])
    copy_critics(plain, ours, seed)
    plain.log_temperature.copy_(ours.log_temperature[seed])


def copy_critics(plain: PlainSAC | PlainTD3BC | PlainIQL, ours: Agent, seed: int) -> None:
    """Every critic and its target."""
    for name in ("critics", "target_critics"):
        for i, critic in enumerate(getattr(plain, name)):
            copy_network(critic, getattr(ours, name).body, (seed, i))


@torch.no_grad()
def copy_td3_bc(plain: PlainTD3BC, ours: TD3BC, seed: int) -> None:
    """All networks of one seed, and the statistics of observations."""
    copy_critics(plain, ours, seed)
    copy_network(plain.actor, ours.actor.body, (seed,))
    copy_network(plain.target_actor, ours.target_actor.body, (seed,))
    plain.mean.copy_(ours.standardise.mean)
    plain.scale.copy_(ours.standardise.scale)


@torch.no_grad()
def copy_iql(plain: PlainIQL, ours: IQL, seed: int) -> None:
    """All networks of one seed."""
    copy_critics(plain, ours, seed)
    copy_network(plain.actor, ours.actor.body, (seed,))
    copy_network(plain.value, ours.value.body, (seed,))
    plain.log_std.copy_(ours.actor.free_log_std[seed].flatten())


@torch.no_grad()
def copy_ensemble(plain: PlainEnsemble, ours: ProbabilisticEnsemble) -> None:
    """Members, bounds, input statistics and elites of a model for one seed."""
    gaussians = ours.gaussians
    for i, member in enumerate(plain.members):
        copy_network(member, gaussians.network, (0, i))
    plain.low.copy_(gaussians.low.flatten())
    plain.high.copy_(gaussians.high.flatten())
    plain.input_mean.copy_(gaussians.input_mean.flatten())
    plain.input_std.copy_(gaussians.input_std.flatten())
    plain.elites = ours.elite_members[0].tolist()
