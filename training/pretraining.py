"""Pretraining of an actor before the first update, by behaviour cloning."""

import torch
from rich.console import Console
from torch import Tensor

from reverie.agents.base import Agent
from reverie.agents.networks import GaussianActor, TanhGaussianActor
from reverie.datasets.columns import taken_actions
from reverie.datasets.replay import Replay
from reverie.mistake import Mistake
from reverie.ranges import Count, Positive
from reverie.training.loop import Wrapper
from reverie.training.progress import stage
from reverie.world_models.optimiser import Adam

_EDGE = 1 - 1e-6


class Cloning:
    """Fits an agent's actor to the recorded actions by maximum likelihood.

    Repeated actions of chunks are left out, where the rows say so, see `Agent.imitates`.

    Args:
        epochs: passes over the dataset; each seed samples as many transitions with replacement.
        batch: transitions per update.
        learning_rate: of Adam, whose moments are discarded afterwards.

    Source: the pretraining of RAMBO, arXiv:2204.12581. Differs: a transition whose action is on the
    edge of the box is excluded, where the authors' code excludes its whole batch.
    """

    def __init__(self, *, epochs: Count, batch: Count, learning_rate: Positive) -> None:
        self.epochs, self.batch, self.learning_rate = epochs, batch, learning_rate

    def require(self, agent: Agent) -> None:
        """Refuse an agent without a stochastic actor.

        Raises:
            Mistake: says so.
        """
        if not isinstance(getattr(agent, "actor", None), TanhGaussianActor | GaussianActor):
            raise Mistake(
                f"pretraining=clone fits a stochastic actor, which {type(agent).__name__} has not; "
                "set pretraining=none, or choose agent=sac"
            )

    def carry_out(self, agent: Agent, recorded: Replay, compile: Wrapper, console: Console) -> None:
        """Move the actor, and nothing else of the agent; draws from torch's global generator."""
        actor: TanhGaussianActor | GaussianActor = agent.actor  # type: ignore[assignment]
        optimiser = Adam(actor.parameters(), self.learning_rate).to(recorded.rows.device)

        @compile
        def update() -> Tensor:
            rows = recorded.sample(agent.seeds, self.batch)
            edge, taken = rows.action.abs() >= _EDGE, taken_actions(rows)
            inside = ~(edge if taken is None else edge & taken).any(-1)  # [S, B]
            log_prob = actor.log_prob(rows.obs, rows.action, taken)
            loss = -torch.where(inside, log_prob, 0.0).sum(1) / inside.sum(1).clamp(min=1)
            optimiser.step(loss)
            return loss.detach()

        updates = -(-self.epochs * recorded.capacity // self.batch)
        with stage("cloning the recorded actions", updates, console) as shown:
            for done in range(1, updates + 1):
                loss = update()
                shown.advance_to(done)
            shown.report(updates, f"loss {loss.mean().item():.4g}")
