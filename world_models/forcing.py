"""Generalised teacher forcing: training on multi-step predictions without exploding gradients.

arXiv:2306.04406. A model predicts step after step from its own predictions, mixed with a share
alpha of the recorded state. alpha 1 is training on single steps, 0 is back-propagation through the
whole window; in between the gradient through t steps decays like (1 - alpha)^t. Sparse forcing, at
every tau-th step alone: arXiv:2410.14240. Weights of the steps by causality: arXiv:2203.07404.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from reverie.datasets.dataset import Dataset
from reverie.mistake import Mistake
from reverie.ranges import Count, NonNegative, UnitInterval
from reverie.world_models.fitting import Weights
from reverie.world_models.optimiser import Adam

ADAPTIVE = "adaptive"
LOST = 100.0
"""Largest squared error in variances: what is ten standard deviations off is lost, however far."""
_FAR = 1e3
"""Standard deviations at which a carried state is lost, whatever the network makes of it."""


@dataclass(frozen=True, kw_only=True)
class Forcing:
    """Strength and length of teacher forcing.

    Args:
        steps: T, of a window. Windows end where episodes do.
        alpha: weight of the recorded state in the state that the next prediction starts from;
            `adaptive` takes 1 - 1 / sigma, see `AdaptiveAlpha`.
        interval: tau, steps from one such mix to the next; 1 mixes at every step. Sparse teacher
            forcing is alpha 1 with a longer one.
        causality: eps of w_t = exp(-eps sum_{j<t} e_j), the weight of step t, with e_j the mean
            squared error of step j in variances; 0: equal weights.
        adapt_every: updates between measurements of sigma.
        adapt_rate: rate at which a smaller alpha is adopted.

    Raises:
        Mistake: an adaptive alpha, which bounds the gradient of single steps, with an interval.

    Source: arXiv:2306.04406, arXiv:2410.14240 for the interval, and arXiv:2203.07404 for the
    weights. Differs: see `AdaptiveAlpha`.
    """

    steps: Count
    alpha: UnitInterval | Literal["adaptive"]
    interval: Count
    causality: NonNegative
    adapt_every: Count
    adapt_rate: UnitInterval

    def __post_init__(self) -> None:
        if self.alpha == ADAPTIVE and self.interval != 1:
            raise Mistake(
                f"world_model.forcing.interval={self.interval} leaves steps to themselves, and "
                "alpha=adaptive bounds those that are drawn to the record; set one of them to 1"
            )

    def signature(self) -> dict[str, Any]:
        """Plain values by which fits are told apart."""
        fixed = asdict(self)
        if self.interval == 1:  # models fitted so are the same as before there was any
            del fixed["interval"]
        return fixed


class Window(NamedTuple):
    """Windows of T consecutive steps; observations are standardised, rewards and actions raw.

    Attributes:
        obs: `[*, B, D]` where they begin.
        action: `[*, B, T, A]`, and what else drives a step, see `WindowRows`.
        next_obs: `[*, B, T, D]`.
        reward: `[*, B, T, 1]`.
        counts: `[*, B, T]` 1.0 for steps that exist, 0.0 after the end of an episode.
    """

    obs: Tensor
    action: Tensor
    next_obs: Tensor
    reward: Tensor
    counts: Tensor


class WindowRows:
    """The transitions of a dataset, from which windows of any length are cut.

    Args:
        data: raw.
        room: `[N]` steps of the longest window that may begin at each row, see `windows.room_of`.
        mean, std: `[D]` by which observations are standardised.
        driving: `[N, A]` what drives each row's step beside its observation; None: its action.
    """

    def __init__(
        self,
        data: Dataset,
        room: Int[Tensor, " N"],
        mean: Float[Tensor, " D"],
        std: Float[Tensor, " D"],
        driving: Float[Tensor, "N A"] | None = None,
    ) -> None:
        rows = data.transitions.to(mean.device)
        self.obs, self.next_obs = (rows.obs - mean) / std, (rows.next_obs - mean) / std
        self.action = rows.action if driving is None else driving.to(mean.device)
        self.reward = rows.reward.unsqueeze(-1)
        self.room = room.to(mean.device)

    def cut(self, starts: Int[Tensor, "*lead"], steps: int) -> Window:
        """Windows that begin at these rows."""
        starts = starts.long()
        ahead = torch.arange(steps, device=starts.device)
        rows = (starts.unsqueeze(-1) + ahead).clamp(max=len(self.obs) - 1)
        counts = (ahead < self.room[starts].unsqueeze(-1)).to(self.obs.dtype)
        parts = (self.action[rows], self.next_obs[rows], self.reward[rows])
        return Window(self.obs[starts], *parts, counts)


def window_starts(room: Int[Tensor, " N"], steps: int) -> Int[Tensor, " P"]:
    """Rows at which windows of so many steps begin, and the first of each shorter stretch."""
    goes_on = torch.zeros_like(room, dtype=torch.bool)
    goes_on[1:] = room[1:] == room[:-1] - 1
    goes_on &= room > 0
    first = (room > 0) & ~goes_on
    return ((room >= steps) | first).nonzero().flatten()


class Cell(Weights, ABC):
    """One step of a model in teacher forcing: (state, action) to the next state.

    The first D entries of a state `[*, B, W]` are the observation, standardised, which is forced
    towards the record. Others, such as hidden units, are not forced. Parameters of the network
    carry the leading shape `[L, E]`: every member of every seed is trained on its own windows.

    Attributes:
        network: the trained network.
        given: columns of the observation taken from the record at every step, such as exogenous
            ones.
        seen: where in a state observations lie that were drawn to the record, the present one and
            such as are remembered: the first of each D entries.
    """

    network: nn.Module
    given: Sequence[int] = ()
    seen: Sequence[int] = (0,)

    def begin(self, obs: Float[Tensor, "*lead B D"]) -> Float[Tensor, "*lead B W"]:
        """The state at a recorded observation without a past."""
        return obs

    @abstractmethod
    def move(
        self, state: Float[Tensor, "*lead B W"], action: Float[Tensor, "*lead B A"]
    ) -> tuple[Float[Tensor, "*lead B W"], tuple[Tensor, ...]]:
        """The next state, and what `judge` needs besides, `[*, B, X]` each."""

    def judge(
        self,
        state: Float[Tensor, "*lead N W"],
        following: Float[Tensor, "*lead N W"],
        told: tuple[Tensor, ...],
        next_obs: Float[Tensor, "*lead N D"],
        reward: Float[Tensor, "*lead N 1"],
    ) -> tuple[Float[Tensor, "*lead N"], Float[Tensor, "*lead N"]]:
        """Loss and squared error in variances of steps; of a plain cell both are the latter."""
        error = (following[..., : next_obs.shape[-1]] - next_obs).square().mean(-1)
        return error, error

    def penalty(self) -> Float[Tensor, " L"] | float:
        """What else the loss of a seed holds."""
        return 0.0

    def parameters(self) -> list[nn.Parameter]:
        """All trained tensors."""
        return list(self.network.parameters())

    def descend(self, optimiser: Adam, losses: Float[Tensor, " L"]) -> None:
        """One step of Adam."""
        optimiser.step(losses)


def forced_losses(
    cell: Cell,
    window: Window,
    alpha: float | Float[Tensor, "*lead"],
    causality: float,
    interval: int = 1,
) -> tuple[Float[Tensor, "*lead"], Float[Tensor, "*lead T"]]:
    """Loss over windows, and the mean squared error of each of their steps, detached.

    z_1 recorded,  z^_{t+1} = f(z_t, a_t),  z_{t+1} = (1 - alpha) z^_{t+1} + alpha z_{t+1}(recorded)
    loss = sum_t w_t loss(z^_{t+1}) / T,  w_t = exp(-causality sum_{j<t} e_j)

    Args:
        alpha: one for all, or one for each `[*lead]`. 0 leaves the record to the first step.
        interval: alpha counts where it divides t, and is 0 elsewhere.

    Source: arXiv:2306.04406. Differs: recorded actions drive the model; weights by causality.
    """
    state, following, told = _carry(cell, window, alpha, interval)
    loss, error = cell.judge(
        state, following, told, _in_turn(window.next_obs), _in_turn(window.reward)
    )
    here = window.counts.mT  # [*, T, B]
    loss, error = (each.unflatten(-1, here.shape[-2:]) for each in (loss, error.detach()))
    # A network that answers a finite state by NaN has diverged; a lost state has not.
    lost = ~(state.abs() < _FAR).all(-1).unflatten(-1, here.shape[-2:])
    rows = here.sum(-1)
    error = torch.where(lost, LOST, error.clamp(max=LOST)) * here
    errors = error.sum(-1) / rows.clamp(min=1.0)
    losses = torch.where(here > 0, loss, 0.0).sum(-1)
    if causality:
        losses = losses * torch.exp(-causality * (errors.cumsum(-1) - errors))
    return losses.sum(-1) / rows.sum(-1), errors


def _carry(
    cell: Cell, window: Window, alpha: float | Float[Tensor, "*lead"], interval: int
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """State, next state and what else is told at every step, rows of a step together: T x B."""
    dim = window.obs.shape[-1]
    state = cell.begin(window.obs)
    always = not isinstance(alpha, Tensor) and alpha == 1 and interval == 1
    if always and state.shape[-1] == dim:
        # Every step starts from the record: all of them at once.
        recorded = torch.cat([window.obs.unsqueeze(-2), window.next_obs[..., :-1, :]], -2)
        state = _in_turn(recorded)
        return state, *cell.move(state, _in_turn(window.action))
    drawn, free = (_share(each, cell.given, window.obs) for each in (alpha, 0.0))
    states, followings, told = [], [], []
    steps = zip(window.action.unbind(-2), window.next_obs.unbind(-2), strict=True)
    for t, (action, target) in enumerate(steps, 1):
        following, more = cell.move(state, action)
        states.append(state)
        followings.append(following)
        told.append(more)
        seen = torch.lerp(following[..., :dim], target, free if t % interval else drawn)
        state = torch.cat([seen, following[..., dim:]], -1)
    more = tuple(torch.cat(parts, -2) for parts in zip(*told, strict=True))
    return torch.cat(states, -2), torch.cat(followings, -2), more


def _in_turn(steps: Float[Tensor, "*lead B T X"]) -> Float[Tensor, "*lead rows X"]:
    """Steps as rows, those of one time together."""
    return steps.transpose(-3, -2).flatten(-3, -2)


def _share(
    alpha: float | Float[Tensor, "*lead"], given: Sequence[int], obs: Float[Tensor, "*lead B D"]
) -> Float[Tensor, "*lead _ D"]:
    """What forcing takes of every column of the record."""
    if isinstance(alpha, Tensor):
        share = alpha[..., None, None].expand(*alpha.shape, 1, obs.shape[-1])
    else:
        share = torch.full_like(obs[..., :1, :], alpha)
    if not given:
        return share
    return share.index_fill(-1, torch.tensor(list(given), device=obs.device), 1.0)


@torch.no_grad()
def free_errors(cell: Cell, window: Window) -> Float[Tensor, "*lead T"]:
    """Mean squared error of each step of a prediction that sees the first state only."""
    return forced_losses(cell, window, 0.0, 0.0)[1]


class AdaptiveAlpha:
    """The smallest alpha that keeps gradients from growing, for every member.

    alpha* = max(0, 1 - 1 / sigma), with sigma the largest geometric mean over a window of
    |d z^_{t+1} / d z_t|_2 at recorded states. A larger alpha* is adopted at once, a smaller one
    gradually. It starts at 1.

    Source: arXiv:2306.04406. Differs: of a state with hidden units, the Jacobian is that of
    observations by observations, which is the part that forcing damps.
    """

    def __init__(self, lead: Sequence[int], rate: float, device: torch.device) -> None:
        self.rate = rate
        self.value = torch.ones(*lead, device=device)

    def adapt(self, cell: Cell, window: Window) -> None:
        """Measure at recorded states; no host sync."""
        logs, state, dim = [], cell.begin(window.obs), window.obs.shape[-1]
        for t in range(window.action.shape[-2]):
            action = window.action[..., t, :]
            logs.append(jacobian_norms(cell, state, action, dim).clamp(min=1e-12).log())
            with torch.no_grad():
                following = cell.move(state, action)[0][..., dim:]
            state = torch.cat([window.next_obs[..., t, :], following], -1)
        mean = (torch.stack(logs, -1) * window.counts).sum(-1) / window.counts.sum(-1)
        sigma = mean.amax(-1).exp()
        wanted = (1 - 1 / sigma).clamp(min=0.0)
        slowly = torch.lerp(self.value, wanted, self.rate)
        self.value = torch.where(wanted > self.value, wanted, slowly)


def jacobian_norms(
    cell: Cell, state: Float[Tensor, "*lead B W"], action: Float[Tensor, "*lead B A"], dim: int
) -> Float[Tensor, "*lead B"]:
    """Spectral norms of d z^' / d z, summed over the observations z in a state (`Cell.seen`)."""
    rows = state.shape[-2]
    # A copy of all rows for each entry, of which it alone is differentiated: one pass backwards.
    lead = [1] * (state.ndim - 2)
    copies = state.detach().repeat(*lead, dim, 1).requires_grad_(True)
    with torch.enable_grad():
        following = cell.move(copies, action.repeat(*lead, dim, 1))[0][..., :dim]
        entries = following.unflatten(-2, (dim, rows)).diagonal(0, -3, -1)
        (gradient,) = torch.autograd.grad(entries.sum(), copies)
    gradient = gradient.unflatten(-2, (dim, rows)).transpose(-3, -2)
    seen = torch.stack([gradient[..., first : first + dim] for first in cell.seen])
    return torch.linalg.matrix_norm(seen, 2).sum(0)
