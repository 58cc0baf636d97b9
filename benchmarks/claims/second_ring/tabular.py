"""Demonstrations in random finite tasks, where everything but the data is exact.

M tasks of S states and A actions over H steps, all at once; tables are `[M, H, S, A]`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Policies = Float[Tensor, "M H S A"]


@dataclass(frozen=True)
class Tasks:
    """Finite tasks that begin in state 0.

    Attributes:
        transitions: P(s' | h, s, a), `[M, H, S, A, S]`.
        rewards: `[M, H, S, A]`.
    """

    transitions: Tensor
    rewards: Tensor

    def value(self, policy: Policies) -> Float[Tensor, " M"]:
        """What a policy earns from state 0."""
        return _backwards(self, lambda h, q: (policy[:, h] * q).sum(-1))[:, 0]


def draw_tasks(count: int, states: int, actions: int, horizon: int, rewarded: float) -> Tasks:
    """Transitions uniform on the simplex; a reward of 1 at a share `rewarded` of all entries."""
    lead = (count, horizon, states, actions)
    simplex = torch.distributions.Dirichlet(torch.ones(states, dtype=torch.float64))
    rewards = (torch.rand(lead) < rewarded).double()
    return Tasks(simplex.sample(lead), rewards)


def observe(tasks: Tasks, samples: int) -> Tasks:
    """The tasks as `samples` transitions of every step, state and action show them."""
    counts = torch.distributions.Multinomial(samples, tasks.transitions).sample()
    return Tasks(counts / samples, tasks.rewards)


def plan(tasks: Tasks) -> Policies:
    """The best policy."""
    chosen: list[Tensor] = []

    def best(h: int, q: Tensor) -> Tensor:
        chosen.append(F.one_hot(q.argmax(-1), q.shape[-1]).double())
        return q.amax(-1)

    _backwards(tasks, best)
    return torch.stack(chosen[::-1], 1)


def plan_near(tasks: Tasks, clone: Policies, weight: float) -> Policies:
    """The best policy where KL to a clone costs `weight` a nat.

    V(s) = lambda log sum_a pi_BC(a|s) exp(Q(s, a) / lambda), and
    pi(a|s) is proportional to pi_BC(a|s) exp(Q(s, a) / lambda).

    Source: arXiv:2310.17303, regularised Bellman equations.
    """
    chosen: list[Tensor] = []

    def soft(h: int, q: Tensor) -> Tensor:
        logits = clone[:, h].log() + q / weight
        chosen.append(logits.softmax(-1))
        return weight * logits.logsumexp(-1)

    _backwards(tasks, soft)
    return torch.stack(chosen[::-1], 1)


def clone_behaviour(tasks: Tasks, expert: Policies, trajectories: int) -> Policies:
    """(N(s, a, h) + 1) / (N(s, h) + A) of trajectories of a deterministic expert."""
    count = len(expert)
    task = torch.arange(count).unsqueeze(1).expand(count, trajectories)
    state = torch.zeros_like(task)
    visits = torch.zeros_like(expert)
    for h in range(expert.shape[1]):
        action = expert[task, h, state].argmax(-1)
        one = torch.ones(task.shape, dtype=visits.dtype)
        visits[:, h].index_put_((task, state, action), one, accumulate=True)
        state = torch.distributions.Categorical(tasks.transitions[task, h, state, action]).sample()
    return (visits + 1) / (visits.sum(-1, keepdim=True) + expert.shape[-1])


def _backwards(tasks: Tasks, value_of: Callable[[int, Tensor], Tensor]) -> Float[Tensor, "M S"]:
    """V of the first step; `value_of(h, Q [M, S, A])` gives V of a step."""
    value = tasks.rewards.new_zeros(tasks.rewards.shape[0], tasks.rewards.shape[2])
    for h in reversed(range(tasks.rewards.shape[1])):
        future = torch.einsum("msat,mt->msa", tasks.transitions[:, h], value)
        value = value_of(h, tasks.rewards[:, h] + future)
    return value


def gaps(
    *,
    tasks: Tasks,
    expert: Policies,
    samples: int,
    trajectories: int,
    weights: tuple[float, ...],
) -> dict[str, Tensor]:
    """(V* - V) / V* by task of plain planning, of the clone, and near the clone by weight.

    Args:
        samples: of the model, of every step, state and action.
        trajectories: demonstrations.
        weights: lambda, reward units per nat.
    """
    model, best = observe(tasks, samples), tasks.value(expert)
    clone = clone_behaviour(tasks, expert, trajectories)
    policies = {"plain": plan(model), "clone": clone}
    policies |= {f"{weight:g}": plan_near(model, clone, weight) for weight in weights}
    return {name: (best - tasks.value(policy)) / best for name, policy in policies.items()}
