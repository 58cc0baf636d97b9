"""Model predictive control: plans are sampled, rolled out in a world model, and refined.

CEM and MPPI as in PETS, arXiv:1805.12114, and TD-MPC2, arXiv:2310.16828; noise that is correlated
in time from iCEM, arXiv:2008.06389; proposals of a cloned behaviour from MBOP, arXiv:2008.05556.
"""

from collections.abc import Callable
from math import isclose
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.ranges import Count, NonNegative, Positive, Share, UnitInterval, Whole
from reverie.world_models.base import Critics, Moments, WorldModel
from reverie.world_models.coloured_noise import coloured_noise

Choose = Callable[[int, Tensor], Tensor]
"""`(t, obs [S, B, D]) -> action [S, B, A]` of candidate plans, B = P K, at their step t."""
Limits = tuple[Tensor, Tensor]
"""Least and largest action `[A]`, or anything that broadcasts against `[S, P, 1, A]`."""


class ModelPredictivePlanner:
    """A policy that searches a plan of H actions at each state and executes its first ones.

    A plan is a Gaussian over action sequences, mean m and std s. An iteration samples K sequences,
    rolls them out in the model for all S seeds and P episodes at once, and scores each by
    J = sum_{t < H} g^t (r_t - penalty u_t - rate |a_t - a_{t-1}|^2) + g^H V(s_H)
    up to a predicted termination. The E best define the next m and s, with weights
    exp((J - max J) / (temperature std J)) (MPPI) or equal ones (CEM). The first sequence is m.

    Args:
        spec: of the task.
        model: fitted; its outcomes are those of `expect`, so no plan has noise.
        moments, critics: of the run's agent, or None.
        value_discount: of what `critics` estimate, per action.
        behaviour: moments of a clone of the behaviour policy, or None.
        horizon: H, actions (chunks, of an agent of chunks) in a plan.
        iterations: of the search, at each state.
        samples: K, including those of the policy; 0 executes the agent's own action.
        elites: E, best plans used in the update.
        policy_samples: those of the K in which the agent acts in the model; the first of them
            without noise. None without an agent.
        std_min, std_max: bounds of s, which begins at the upper one; actions are in [-1, 1].
        temperature: of MPPI, in standard deviations of J over the K plans of a state, so that it
            does not depend on the unit of the reward; None for CEM.
        noise_exponent: beta of noise with spectrum 1 / f^beta along a plan; 0 is white.
        discount: g, per control step.
        terminal: V at the agent's mean action, the `min` or `mean` over critics, 0 for an agent
            without; or `none`.
        penalty: reward per unit of the model's uncertainty.
        action_rate: reward per squared change of 1 of an action in a control step.
        proposals: distribution of plans: `gaussian` as above; or `behaviour`: the clone acts in the
            model, mixed with m by `mix`, with noise as wide as the clone's.
        mix: share of m in the actions of `proposals=behaviour`, once there is a plan.
        execute: actions executed before replanning.

    Plans that are not finite are ignored; if none is finite, m stays. Actions are clipped to bounds
    that may differ at every call.

    Source: the papers above. Differs: J is standardised per state, because rewards are in the units
    of the task; the model predicts by its mean, not by one member per plan (TS-inf); iCEM's
    decay of K and kept elites are omitted; MBOP's terminal value is that of the agent's critics,
    and its clone does not see the last action.
    """

    def __init__(
        self,
        *,
        spec: Spec,
        model: WorldModel,
        moments: Moments | None,
        critics: Critics | None,
        value_discount: float,
        behaviour: Moments | None,
        horizon: Count,
        iterations: Count,
        samples: Whole,
        elites: Count,
        policy_samples: Whole,
        std_min: Positive,
        std_max: Positive,
        temperature: Positive | None,
        noise_exponent: NonNegative,
        discount: Share,
        terminal: Literal["min", "mean", "none"],
        penalty: NonNegative,
        action_rate: NonNegative,
        proposals: Literal["gaussian", "behaviour"],
        mix: UnitInterval,
        execute: Count,
    ) -> None:
        if model.draws and type(model).expect is WorldModel.expect:
            raise Mistake(
                f"plans in {type(model).__name__} would meet different noise each, and the lucky "
                "one would win; give the model a method expect that draws none"
            )
        if not 1 <= execute <= horizon:
            raise Mistake(f"planner.execute={execute} must lie between 1 and the horizon {horizon}")
        if std_min > std_max:
            raise Mistake(f"planner.std_min={std_min} must not exceed std_max={std_max}")
        if samples and elites > samples:
            raise Mistake(
                f"planner.elites={elites} of planner.samples={samples} plans cannot be; lower "
                "planner.elites"
            )
        if not samples and moments is None:
            raise Mistake("planner.samples=0 plays the agent, and there is none; raise it")
        self.policy_samples = 0 if moments is None else policy_samples
        if samples and self.policy_samples >= samples:
            raise Mistake(
                f"planner.policy_samples={policy_samples} leave none of planner.samples={samples} "
                "to the search; lower it"
            )
        if proposals == "behaviour" and behaviour is None:
            raise Mistake(
                "planner.proposals=behaviour needs a clone of the data's behaviour, which the run "
                "did not fit; train with behaviour=clone, or set planner.proposals=gaussian"
            )
        self.critics = None if terminal == "none" or moments is None else critics
        self.discount = spec.per_action(discount)
        if self.critics is not None and not isclose(self.discount, value_discount):
            raise Mistake(
                f"planner.discount={discount} is not the "
                f"{value_discount ** (1 / spec.chunk):g} of the agent's critics, which value the "
                "end of a plan; set planner.discount to it, or planner.terminal=none"
            )
        self.spec, self.model = spec, model
        self.moments, self.behaviour = moments, behaviour
        self.horizon, self.iterations, self.execute = horizon, iterations, execute
        self.samples, self.elites = samples, elites
        self.std_min, self.std_max, self.temperature = std_min, std_max, temperature
        self.noise_exponent, self.terminal = noise_exponent, terminal
        self.penalty, self.action_rate = penalty, action_rate
        self.proposals, self.mix = proposals, mix
        self.restart()

    def restart(self) -> "ModelPredictivePlanner":
        """Forget the plan: what follows are other episodes."""
        self.mean: Tensor | None = None
        self.last: Tensor | None = None
        self.past: Tensor | None = None  # what the model remembers of the episode
        self.played = 0
        return self

    @torch.no_grad()
    def __call__(
        self, obs: Float[Tensor, "S P D"], action_bounds: Limits | None = None
    ) -> Float[Tensor, "S P A"]:
        """Actions in [-1, 1] for the observations of S seeds and P episodes, on the host.

        All of them are at the same step of their episodes; call `restart` before new ones.

        Args:
            action_bounds: least and largest action `[A]` that may be planned and played from now
                on, in [-1, 1]; None for the whole box.
        """
        obs = obs.to(self.device)
        low, high = self._limits(action_bounds, obs)
        if self.samples == 0:
            assert self.moments is not None
            return self.moments(obs)[0].clamp(low, high).cpu()
        if self.mean is None or self.played == self.execute:
            ahead = None if self.mean is None else moved_on(self.mean, self.played)
            self.mean = self.plan(obs, ahead, self.last, (low, high), past=self.past)
            self.played = 0
        self.last = self.mean[..., self.played, :].clamp(low, high)
        self.past = self.model.follow(obs, self.last, self.past)
        self.played += 1
        return self.last.cpu()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next((each.device for each in self.model.state_dict().values()), torch.device("cpu"))

    def plan(
        self,
        obs: Float[Tensor, "S P D"],
        ahead: Float[Tensor, "S P H A"] | None = None,
        last: Float[Tensor, "S P A"] | None = None,
        limits: Limits | None = None,
        alike: bool = False,
        past: Float[Tensor, "S P W"] | None = None,
    ) -> Float[Tensor, "S P H A"]:
        """The mean of the plans from `obs`, without what was planned before; on the device.

        Args:
            ahead: where the search begins; None for zeros.
            last: actions that were played before, for their rate; None for none.
            limits: of the actions, which broadcast against `[S, P, A]`.
            alike: whether all states of a seed meet the same random numbers, so that a plan does
                not depend on what it is asked beside.
            past: what the model remembers of each episode, None for nothing.
        """
        limits = self._limits(limits, obs)
        sides = tuple(side.expand(*obs.shape[:-1], -1).unsqueeze(2) for side in limits)
        shape = (*obs.shape[:-1], self.horizon, self.spec.action_dim)
        mean = obs.new_zeros(shape) if ahead is None else ahead
        std = torch.full_like(mean, self.std_max)
        followed = self._policy_plans(obs, sides, alike, past)
        for iteration in range(self.iterations):
            known = ahead is not None or iteration > 0  # else the mean is nobody's plan
            mean, std = self._improve(obs, mean, std, followed, last, sides, known, alike, past)
        return mean

    def _improve(
        self,
        obs: Float[Tensor, "S P D"],
        mean: Float[Tensor, "S P H A"],
        std: Float[Tensor, "S P H A"],
        followed: Float[Tensor, "S P K2 H A"],
        last: Float[Tensor, "S P A"] | None,
        limits: tuple[Tensor, ...],
        known: bool,
        alike: bool,
        past: Tensor | None,
    ) -> tuple[Float[Tensor, "S P H A"], Float[Tensor, "S P H A"]]:
        """One iteration: mean and std of the plans, from those that did best."""
        low, high = limits
        drawn = self.samples - followed.shape[2]
        lead = (*_drawn_for(obs, alike), drawn, self.spec.action_dim)
        noise = coloured_noise(lead, self.horizon, self.noise_exponent, obs.device).mT
        noise[:, :, 0] = 0.0
        noise = noise.expand(*obs.shape[:-1], *noise.shape[2:])
        centre, width = mean.unsqueeze(2), std.unsqueeze(2)  # [S, P, 1, H, A]
        sampled = centre + width * noise

        def choose(t: int, states: Tensor) -> Tensor:
            action = sampled[..., t, :]
            if self.proposals == "behaviour":
                assert self.behaviour is not None
                own = states.unflatten(1, (-1, self.samples))[:, :, :drawn]
                cloned, spread = self._drawn_from(self.behaviour, own.flatten(1, 2))
                acts = cloned + spread * noise[..., t, :].flatten(1, 2)
                action = acts.view_as(action)
                if known:
                    mixed = (1 - self.mix) * action + self.mix * centre[..., t, :]
                    # The first plan stays m, so that what was found is not lost.
                    action = torch.cat([centre[..., t, :], mixed[:, :, 1:]], 2)
            action = torch.cat([action, followed[..., t, :]], 2).clamp(low, high)
            return action.flatten(1, 2)

        actions, value = self._roll_out(obs, choose, self.samples, last, past)
        value = torch.where(value.isfinite(), value, -torch.inf)
        best, index = value.topk(self.elites, -1)
        kept = actions.take_along_dim(index[..., None, None], 2)  # [S, P, E, H, A]
        # A policy that met a state that is not finite answered in kind.
        kept = torch.where(best[..., None, None].isfinite(), kept, 0.0)
        weight = self._weigh(best, value)[..., None, None].to(kept.dtype)
        found = (weight * kept).sum(2)
        spread = (weight * (kept - found.unsqueeze(2)).square()).sum(2).sqrt()
        some = best[..., :1, None].isfinite()
        return torch.where(some, found, mean), spread.clamp(self.std_min, self.std_max)

    def _weigh(
        self, best: Float[Tensor, "S P E"], value: Float[Tensor, "S P K"]
    ) -> Float[Tensor, "S P E"]:
        """Weights of the best plans, with sum 1; 0 for those that are not finite."""
        counts = best.isfinite()
        if self.temperature is None:
            weight = counts.double()
        else:
            known = value.isfinite()
            number = known.sum(-1, keepdim=True).clamp(min=1)
            centre = torch.where(known, value, 0.0).sum(-1, keepdim=True) / number
            away = torch.where(known, value - centre, 0.0)
            std = (away.square().sum(-1, keepdim=True) / number).sqrt().clamp(min=1e-12)
            behind = torch.where(counts, best - best[..., :1], 0.0)
            weight = torch.where(counts, torch.exp(behind / (self.temperature * std)), 0.0)
        return weight / weight.sum(-1, keepdim=True).clamp(min=1e-12)

    def _roll_out(
        self,
        obs: Float[Tensor, "S P D"],
        choose: Choose,
        count: int,
        last: Float[Tensor, "S P A"] | None,
        past: Float[Tensor, "S P W"] | None,
    ) -> tuple[Float[Tensor, "S P K H A"], Float[Tensor, "S P K"]]:
        """What `count` plans from each state do and what they earn, J in float64."""
        lead = (*obs.shape[:-1], count)
        obs = obs.unsqueeze(2).expand(*lead, -1).flatten(1, 2)  # [S, P K, D]
        if past is not None:
            past = past.unsqueeze(2).expand(*lead, -1).flatten(1, 2)
        state = self.model.begin(obs, past=past, expected=True)
        alive = torch.ones(obs.shape[:-1], dtype=torch.bool, device=obs.device)
        total = obs.new_zeros(obs.shape[:-1], dtype=torch.float64)
        before = None if last is None else last.unsqueeze(2).expand(*lead, -1).flatten(1, 2)
        actions = []
        for t in range(self.horizon):
            action = choose(t, obs)
            step = self.model.advance(obs, action, 1, state, expected=True)
            earned = step.reward[0].double()
            if self.penalty:
                earned = earned - self.penalty * step.uncertainty
            if self.action_rate:
                earned = earned - self.action_rate * self._change(action, before)
            # What has ended stands still, and nothing that follows is counted.
            total = total + torch.where(alive, self.discount**t * earned, 0.0)
            alive = alive & ~step.terminated[0]
            obs = torch.where(alive.unsqueeze(-1), step.next_obs[0], obs)
            if step.state is not None:
                after = step.state[0]
                state = after if state is None else torch.where(alive.unsqueeze(-1), after, state)
            before = action
            actions.append(action)
        if self.critics is not None and self.moments is not None:
            value = self.critics(obs, self.moments(obs)[0])
            if value is not None:
                value = value.amin(1) if self.terminal == "min" else value.mean(1)
                total = total + torch.where(alive, self.discount**self.horizon * value, 0.0)
        # A state that is not finite has a future that nobody knows.
        total = torch.where(obs.isfinite().all(-1), total, torch.nan)
        return torch.stack(actions, -2).unflatten(1, lead[1:]), total.unflatten(1, lead[1:])

    def _change(
        self, action: Float[Tensor, "S B A"], before: Float[Tensor, "S B A"] | None
    ) -> Float[Tensor, "S B"]:
        """Squared changes of the actions, those of the steps of a chunk among them."""
        steps = action.unflatten(-1, (self.spec.chunk, -1))
        first = steps[..., :1, :] if before is None else _last_of(before, self.spec.chunk)
        return torch.cat([first, steps], -2).diff(dim=-2).square().sum((-1, -2))

    def _policy_plans(
        self,
        obs: Float[Tensor, "S P D"],
        limits: tuple[Tensor, ...],
        alike: bool,
        past: Tensor | None,
    ) -> Float[Tensor, "S P K2 H A"]:
        """What the agent does in the model from each state, the first time without noise."""
        count = self.policy_samples
        shape = (*obs.shape[:-1], count, self.horizon, self.spec.action_dim)
        if not count:
            return obs.new_zeros(shape)
        noise = torch.randn(*_drawn_for(obs, alike), *shape[2:], device=obs.device)
        noise[:, :, 0] = 0.0
        noise = noise.expand(shape)

        def choose(t: int, states: Tensor) -> Tensor:
            assert self.moments is not None
            mean, spread = self._drawn_from(self.moments, states)
            action = mean + spread * noise[..., t, :].flatten(1, 2)
            return action.unflatten(1, (-1, count)).clamp(*limits).flatten(1, 2)

        return self._roll_out(obs, choose, count, None, past)[0]

    def _drawn_from(self, moments: Moments, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std of a policy's actions, the latter `std_min` at least."""
        mean, std = moments(obs)
        std = torch.zeros_like(mean) if std is None else std
        return mean, std.clamp(min=self.std_min)

    def _limits(self, bounds: Limits | None, obs: Tensor) -> Limits:
        """Bounds of the actions on the device, within the box."""
        box = obs.new_ones(self.spec.action_dim)
        if bounds is None:
            return -box, box
        low, high = (torch.as_tensor(side).to(box).expand(*box.shape) for side in bounds)
        if not bool(((low >= -1) & (low <= high) & (high <= 1)).all()):
            raise Mistake(
                f"bounds of actions {low.tolist()} to {high.tolist()} must rise, and lie within "
                "-1 to 1, the whole range of the plant's actions"
            )
        return low, high


def moved_on(mean: Float[Tensor, "S P H A"], played: int) -> Float[Tensor, "S P H A"]:
    """What is left of a plan, its last action repeated."""
    return torch.cat([mean[..., played:, :], mean[..., -1:, :].expand_as(mean[..., :played, :])], 2)


def _drawn_for(obs: Float[Tensor, "S P D"], alike: bool) -> torch.Size:
    """Seeds and states that meet random numbers of their own."""
    return obs[:, :1].shape[:2] if alike else obs.shape[:2]


def _last_of(chunk: Float[Tensor, "S B A"], steps: int) -> Float[Tensor, "S B 1 A1"]:
    return chunk.unflatten(-1, (steps, -1))[..., -1:, :]
