"""Local Lipschitz constants of an agent's value, and errors of its targets by the world model.

arXiv:2302.01244 states that the smaller the Lipschitz constant of the value, the smaller the gap
between the Bellman operators of the true and of the learned dynamics. Its own estimators could not
be read; these are the standard ones.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.agents.base import Agent
from reverie.datasets.dataset import Dataset
from reverie.datasets.replay import Replay
from reverie.envs.evaluation import Episodes
from reverie.envs.true_dynamics import Simulator
from reverie.mistake import Mistake
from reverie.training.seeding import side_stream
from reverie.world_models.base import WorldModel

HIGH = 0.95
"""Quantile over states that stands for the steepest of them."""
_CONSTANT = 1e-6
"""A dimension whose standard deviation is below this never varies: it has no unit to move in."""


class LipschitzProbe:
    """Measures slopes of the smallest critic and errors of one-step targets; trains nothing.

    All at recorded pairs (s, a), the same at every measurement as long as the replay of the dataset
    does not change. States count in standard deviations of the dataset, values in units of
    reward. V(s) is the smallest critic at the deterministic action.

    Args:
        agent: asked for actions and for `values`.
        real: the replay of recorded transitions.
        data: for the scale of observations.
        seeds: S.
        model: whose targets are measured, None for none.
        truth: the task's own dynamics, None where they are not known.
        states: B, pairs per seed.
        radius: e, of the ball of perturbations, standard deviations.
        steps: of the ascent in that ball.
        samples: M, model samples averaged in a target.

    Differs: the paper's setting has a random policy in V; the deterministic action makes the gap
    of two equal models exactly zero.
    """

    def __init__(
        self,
        *,
        agent: Agent,
        real: Replay,
        data: Dataset,
        seeds: int,
        model: WorldModel | None,
        truth: Simulator | None,
        states: int,
        radius: float,
        steps: int,
        samples: int,
    ) -> None:
        for name, value in (("states", states), ("steps", steps), ("samples", samples)):
            if value < 1:
                raise Mistake(
                    f"lipschitz.{name}={value} must be at least 1 (lipschitz.states=0: no probe)"
                )
        if not radius > 0:
            raise Mistake(f"lipschitz.radius={radius} must be positive")
        self.agent, self.real, self.seeds = agent, real, seeds
        self.model, self.truth = model, truth
        self.states, self.radius, self.steps, self.samples = states, radius, steps, samples
        scale = data.transitions.obs.std(0)
        self.scale = torch.where(scale > _CONSTANT, scale, 0.0).to(real.rows.device)

    def measure(self, episodes: Episodes | None) -> dict[str, Float[Tensor, " S"]]:
        """All measurements, one number a seed; draws from torch's global generator.

        Evaluation episodes are not looked at.

        - `slope/gradient`, `slope/gradient_p95`: |dQ/ds|_2 at (s, a), mean and quantile `HIGH`.
        - `slope/local`, `slope/local_p95`: max over |d|_2 <= e of |Q(s + d, a) - Q(s, a)| / |d|_2.
        - `slope/relative`: mean of the latter by the standard deviation of Q over the pairs, for a
          critic that is merely small is not smooth.
        - `gap/bellman`, `gap/bellman_p95`: |y - y^|, y = r + discount (1 - terminated) V(s') of
          the true dynamics, y^ the mean of the same over M outcomes of the model.
        - `gap/value`: mean of the same without the rewards, the value-aware error of the model.
        - `gap/relative`: mean of the gap by the same standard deviation.
        - `gap/spread`: standard deviation of the M next states, mean over pairs and dimensions.

        Nothing for agents without critics, no `gap` without a model, of `gap` only `spread`
        without the true dynamics. Pairs that the true dynamics cannot be restarted from, or where
        an outcome is not finite, do not count for the gap.
        """
        # The same pairs every time, whatever the caller's random stream.
        with side_stream(0, self.scale.device):
            rows = self.real.sample(self.seeds, self.states)
        value = self._values(rows.obs, rows.action)
        if value is None:
            return {}
        size = value.std(1).clamp(min=torch.finfo(value.dtype).tiny)
        gradient, local = self._slopes(rows.obs, rows.action, value)
        measured = {
            **_mean_and_high("slope/gradient", gradient),
            **_mean_and_high("slope/local", local),
            "slope/relative": local.mean(1) / size,
        }
        if self.model is not None:
            measured |= self._gaps(self.model, rows.obs, rows.action, size)
        return measured

    def _slopes(
        self, obs: Float[Tensor, "S B D"], action: Float[Tensor, "S B A"], value: Tensor
    ) -> tuple[Float[Tensor, "S B"], Float[Tensor, "S B"]]:
        """Length of the gradient, and the steepest secant found from both ends along it."""
        gradient, _ = self._gradient(obs, action)
        ahead = self.radius * _unit(gradient)
        move = torch.cat([ahead, -ahead], 1)  # [S, 2 B, D], each way one start
        obs, action, value = (torch.cat([rows, rows], 1) for rows in (obs, action, value))
        steepest = torch.zeros_like(value)
        for _ in range(self.steps):
            uphill, found = self._gradient(obs + self.scale * move, action)
            change = found - value
            steepest = torch.maximum(steepest, _secant(change, move))
            # 2.5 e in all, so that every point of the ball is in reach; then back into it.
            stride = 2.5 * self.radius / self.steps
            move = move + stride * change.sign().unsqueeze(-1) * _unit(uphill)
            move = move * (self.radius / move.norm(dim=-1, keepdim=True)).clamp(max=1.0)
        last = self._values(obs + self.scale * move, action)
        assert last is not None
        steepest = torch.maximum(steepest, _secant(last - value, move))
        return gradient.norm(dim=-1), steepest.unflatten(1, (2, -1)).amax(1)

    def _gradient(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Of Q with respect to the standardised state, and Q."""
        obs = obs.detach().requires_grad_()
        with torch.enable_grad():
            values = self.agent.values(obs, action)
            assert values is not None
            value = values.amin(1)
            (gradient,) = torch.autograd.grad(value.sum(), obs)
        return gradient * self.scale, value.detach()

    @torch.no_grad()
    def _gaps(
        self, model: WorldModel, obs: Tensor, action: Tensor, size: Float[Tensor, " S"]
    ) -> dict[str, Tensor]:
        step = model.advance(obs, action, self.samples)
        spread = step.next_obs.std(0, correction=0) / self.scale
        spread = torch.where(self.scale > 0, spread, torch.nan).nanmean((1, 2))
        measured = {"gap/spread": spread}
        if self.truth is None:
            return measured
        outcome = self.truth.step(obs, action)
        learned = self._future(step.terminated, step.next_obs).mean(0)
        true = self._future(outcome.terminated.unsqueeze(0), outcome.next_obs.unsqueeze(0))[0]
        error = true - learned
        gap = outcome.reward - step.reward.mean(0) + error
        counts = gap.isfinite() & ~self.truth.clipped(obs)
        error, gap = (torch.where(counts, each.abs(), torch.nan) for each in (error, gap))
        return {
            **measured,
            **_mean_and_high("gap/bellman", gap),
            "gap/value": error.nanmean(1),
            "gap/relative": gap.nanmean(1) / size,
        }

    def _future(
        self, terminated: Tensor, next_obs: Float[Tensor, "K S B D"]
    ) -> Float[Tensor, "K S B"]:
        """discount (1 - terminated) V(s')."""
        obs = next_obs.transpose(0, 1).flatten(1, 2)  # [S, K B, D]
        value = self._values(obs, self.agent.act(obs, deterministic=True))
        assert value is not None
        value = value.unflatten(1, (len(next_obs), -1)).transpose(0, 1)
        return self.agent.discount * torch.where(terminated, 0.0, value)

    @torch.no_grad()
    def _values(self, obs: Tensor, action: Tensor) -> Tensor | None:
        values = self.agent.values(obs, action)
        return None if values is None else values.amin(1)


def _mean_and_high(name: str, values: Float[Tensor, "S B"]) -> dict[str, Float[Tensor, " S"]]:
    return {name: values.nanmean(1), f"{name}_p95": values.nanquantile(HIGH, 1)}


def _secant(change: Float[Tensor, "S B"], move: Float[Tensor, "S B D"]) -> Float[Tensor, "S B"]:
    length = move.norm(dim=-1)
    return torch.where(length > 0, change.abs() / length, 0.0)


def _unit(vectors: Float[Tensor, "S B D"]) -> Float[Tensor, "S B D"]:
    length = vectors.norm(dim=-1, keepdim=True)
    return torch.where(length > 0, vectors / length, 0.0)
