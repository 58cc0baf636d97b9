"""Policies of a few terms: fitted to a teacher's actions, printed, exported to Python and C.

u = middle + half tanh(Xi Theta(x)) with Theta the monomials of the observation and Xi sparse.
SINDy-RL, arXiv:2403.09110, section on sparse policies; relabelling of what the student meets:
DAgger, arXiv:1011.0686. Differs: tanh stays in the student, where the paper clips. Thresholded
regression on the teacher's actions before tanh finds the terms, as in the paper; their values then
minimise the error of the action itself, for before tanh most of the error lies where the action is
saturated and nobody sees it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from reverie.envs.specs import Spec
from reverie.training.export.columns import in_comment
from reverie.world_models.sindy.dictionary import (
    Monomials,
    ensemble_fit,
    input_names,
    irreducible,
    library_of,
    powers_of,
    readable_names,
    sparse_fit,
    term_names,
)

# Rounds of dropping small coefficients, and evaluations of one least-squares problem, at most.
_ROUNDS, _EVALUATIONS = 10, 30


@dataclass(frozen=True)
class SparsePolicy:
    """One sparse polynomial per seed and action, before tanh.

    Attributes:
        spec: of the task.
        powers: `[F, D]` exponents of the monomials.
        coefficients: `[S, A, F]` float64.
    """

    spec: Spec
    powers: np.ndarray
    coefficients: np.ndarray

    def act(self, obs: Float[Tensor, "S B D"]) -> Float[Tensor, "S B A"]:
        """Deterministic actions in [-1, 1]."""
        features = Monomials(self.powers).to(obs.device)(obs.double().mT)  # [S, F, B]
        weights = torch.from_numpy(self.coefficients).to(obs.device)
        return torch.tanh(weights @ features).mT.to(obs.dtype)

    def terms(self) -> list[list[dict[str, float]]]:
        """Nonzero coefficients by term, such as `x0^2`, per seed and action."""
        return self._terms(input_names(self.spec.obs_dim, 0))

    def _terms(self, inputs: Sequence[str]) -> list[list[dict[str, float]]]:
        names = term_names(self.powers, inputs)
        return [
            [{names[i]: float(row[i]) for i in np.flatnonzero(row)} for row in each]
            for each in self.coefficients
        ]

    def equations(self) -> list[list[str]]:
        """In the environment's units, three digits behind the point, per seed and action.

        Columns are called as the data call them, see `dictionary.readable_names`.
        """
        names = readable_names(self.spec)
        inputs, outputs = names[: self.spec.obs_dim], names[self.spec.obs_dim :]
        return [
            [
                f"{name} = {middle:g} + {half:g} tanh({_sum(terms)})"
                for name, terms, middle, half in zip(outputs, each, *self._box(), strict=True)
            ]
            for each in self._terms(inputs)
        ]

    def python(self, seed: int) -> str:
        """A module with a function `act(x)`: a list of D numbers in, one of A numbers out."""
        lines = [
            '"""A sparse policy: raw observation in, action in the environment\'s units out."""',
            "",
            "from math import tanh",
            "",
            "",
            "def act(x):",
            *(f"    # {line}" for line in self._columns()),
            *(
                f"    x = [*x[:{dim}], (x[{dim}] - {middle!r}) / {half!r}, *x[{dim + 1}:]]"
                for dim, middle, half in self._scaled()
            ),
            "    return [",
            *(f"        {line}," for line in self._expressions(seed, "**")),
            "    ]",
        ]
        return "\n".join(lines) + "\n"

    def c(self, seed: int) -> str:
        """A C99 file with a function `act`: D numbers in, A numbers out."""
        lines = [
            "/* A sparse policy: raw observation in, action in the environment's units out. */",
            "#include <math.h>",
            "",
            "void act(const double *x, double *u)",
            "{",
            *(f"    // {line}" for line in self._columns()),
            *(
                f"    const double x{dim} = (x[{dim}] - {middle!r}) / {half!r};"
                for dim, middle, half in self._scaled()
                if self.powers[self.coefficients[seed].any(0), dim].any()  # else it is unused
            ),
            *(f"    u[{i}] = {line};" for i, line in enumerate(self._expressions(seed, "*"))),
            "}",
        ]
        return "\n".join(lines) + "\n"

    def _columns(self) -> list[str]:
        """What the entries of x and u are, where the data say so, as lines of a comment."""
        spec = self.spec
        outputs = spec.action_names if spec.chunk == 1 else spec.action_labels
        named = (("x", spec.obs_names), ("u", outputs))
        columns = [
            f"{letter}[{index}]: {in_comment(name)}"
            for letter, names in named
            for index, name in enumerate(names)
        ]
        return [*filter(None, [spec.how_to_play, spec.how_to_see]), *columns]

    def _scaled(self) -> list[tuple[int, float, float]]:
        """Past actions in the plant's units among the inputs: column, middle and half width."""
        spec, (middle, half) = self.spec, self._box()
        if not spec.actions_are_scaled:
            return []
        past = range(spec.past_actions.start, spec.obs_dim)
        return [
            (dim, middle[n % spec.action_dim], half[n % spec.action_dim])
            for n, dim in enumerate(past)
        ]

    def _expressions(self, seed: int, power: str) -> list[str]:
        scaled = {dim for dim, *_ in self._scaled()} if power == "*" else set()

        def product(value: float, exponents: np.ndarray) -> str:
            factors = [repr(float(value))]
            for index, exponent in enumerate(exponents):
                if power == "**" and exponent > 1:
                    factors.append(f"x[{index}] ** {exponent}")
                else:  # C has no operator for it, and pow() is slow
                    entry = f"x{index}" if index in scaled else f"x[{index}]"
                    factors += [entry] * int(exponent)
            return " * ".join(factors)

        found = []
        for row, middle, half in zip(self.coefficients[seed], *self._box(), strict=True):
            parts = [product(row[i], self.powers[i]) for i in np.flatnonzero(row)]
            found.append(f"{middle!r} + {half!r} * tanh({' + '.join(parts) or '0.0'})")
        return found

    def _box(self) -> tuple[list[float], list[float]]:
        low, high = np.array(self.spec.action_low), np.array(self.spec.action_high)
        return ((low + high) / 2).tolist(), ((high - low) / 2).tolist()


def labels(action: Float[Tensor, "*lead A"], bound: float) -> Float[Tensor, "*lead A"]:
    """A teacher's actions before their tanh, clipped to +-`bound`."""
    edge = float(np.tanh(bound))
    return torch.atanh(action.double().clamp(-edge, edge))


def squashed_fit(
    features: Float[np.ndarray, "N F"],
    action: Float[np.ndarray, " N"],
    start: Float[np.ndarray, " F"],
    threshold: float,
) -> Float[np.ndarray, " F"]:
    """Least squares of tanh(features @ xi) on an action, over the terms that `start` has.

    Coefficients below the threshold leave and the rest is fitted again, as in the linear
    regression that gave the start.
    """
    from scipy.optimize import least_squares

    found = start.copy()
    for _ in range(_ROUNDS):
        terms = np.flatnonzero(found)
        if not len(terms):
            break
        theta = features[:, terms]

        def residual(xi: np.ndarray, theta: np.ndarray = theta) -> np.ndarray:
            return np.tanh(theta @ xi) - action

        def slope(xi: np.ndarray, theta: np.ndarray = theta) -> np.ndarray:
            return (1 - np.tanh(theta @ xi) ** 2)[:, None] * theta

        # The faster one wants as many rows as terms.
        method = "lm" if len(theta) >= len(terms) else "trf"
        found[terms] = least_squares(
            residual, found[terms], slope, method=method, max_nfev=_EVALUATIONS
        ).x
        small = np.abs(found) < threshold
        if not (small & (found != 0)).any():
            break
        found[small] = 0.0
    return found


def fit_sparse_policy(
    spec: Spec,
    states: Sequence[Float[np.ndarray, "N D"]],
    actions: Sequence[Float[np.ndarray, "N A"]],
    *,
    angles: Sequence[Sequence[int]],
    degrees: Sequence[int],
    thresholds: Sequence[float],
    tolerance: float,
    alpha: float,
    members: int,
    library_ensemble: bool,
    label_bound: float,
    seed: int,
) -> tuple[SparsePolicy, list[dict[str, Any]]]:
    """Fit a policy to every seed's states; returns what was chosen for each as well.

    Every degree and threshold is tried with one fit. Of those whose squared error of the action on
    a tenth of the states, kept apart, is within `tolerance` of the least, the one with the fewest
    terms is fitted again: an ensemble of linear fits, whose median says which terms there are and
    where their values start, and `squashed_fit` of these.

    Args:
        states, actions: of each seed, in any order; the teacher's actions, in [-1, 1].
        angles: pairs [cosine, sine]; the sine enters a monomial at most once, for with
            c^2 + s^2 = 1 more is singular.
        label_bound: actions before tanh are clipped to +- this.
    """
    library = library_of(
        "polynomial", obs_dim=spec.obs_dim, action_dim=0, degree=max(degrees), interactions=True
    )
    powers = powers_of(library, spec.obs_dim, 0)
    powers = powers[irreducible(powers, [sine for _, sine in angles])]
    degree_of = powers.sum(1)
    program = Monomials(powers)
    coefficients = np.zeros((len(states), spec.action_dim, len(powers)))
    chosen = []
    for replica, (rows, wanted) in enumerate(zip(states, actions, strict=True)):
        order = np.random.default_rng([seed, replica]).permutation(len(rows))
        theta = program(torch.from_numpy(rows[order]).double().mT).mT.numpy()
        wanted = wanted[order]
        aims = labels(torch.from_numpy(wanted), label_bound).numpy()
        best = _choose(
            [
                _try(theta, wanted, aims, degree_of, degree, threshold, alpha)
                for degree in degrees
                for threshold in thresholds
            ],
            tolerance,
        )
        columns = degree_of <= best["degree"]
        fits = ensemble_fit(
            theta[:, columns],
            aims,
            threshold=best["threshold"],
            alpha=alpha,
            members=members,
            bagging=True,
            library_ensemble=library_ensemble,
            seed=[seed, replica],
        )
        start = np.zeros_like(coefficients[replica])
        start[:, columns] = np.median(fits, 0)
        coefficients[replica] = _squash(theta, wanted, start, best["threshold"])
        chosen.append(best | {"terms": int(np.count_nonzero(coefficients[replica]))})
    return SparsePolicy(spec, powers, coefficients), chosen


def _try(
    theta: Float[np.ndarray, "N F"],
    wanted: Float[np.ndarray, "N A"],
    aims: Float[np.ndarray, "N A"],
    degree_of: np.ndarray,
    degree: int,
    threshold: float,
    alpha: float,
) -> dict[str, Any]:
    """One fit to nine tenths of the rows: its terms, and its error on the first tenth."""
    cut = max(len(theta) // 10, 1)
    columns = degree_of <= degree
    start = np.zeros((wanted.shape[1], theta.shape[1]))
    start[:, columns] = sparse_fit(
        theta[cut:, columns], aims[cut:], threshold=threshold, alpha=alpha
    )
    found = _squash(theta[cut:], wanted[cut:], start, threshold)
    error = np.square(np.tanh(theta[:cut] @ found.T) - wanted[:cut]).mean()
    return {
        "terms": int(np.count_nonzero(found)),
        "error": float(error),
        "degree": degree,
        "threshold": threshold,
    }


def _choose(tried: Sequence[dict[str, Any]], tolerance: float) -> dict[str, Any]:
    """The fewest terms of those whose error is within `tolerance` of the least."""
    least = min(each["error"] for each in tried)
    good = [each for each in tried if each["error"] <= (1 + tolerance) * least]
    return min(good, key=lambda each: (each["terms"], each["error"]))


def _squash(
    theta: Float[np.ndarray, "N F"],
    wanted: Float[np.ndarray, "N A"],
    start: Float[np.ndarray, "A F"],
    threshold: float,
) -> Float[np.ndarray, "A F"]:
    """`squashed_fit` of every dimension of the action."""
    return np.stack(
        [
            squashed_fit(theta, action, each, threshold)
            for action, each in zip(wanted.T, start, strict=True)
        ]
    )


def _sum(terms: dict[str, float]) -> str:
    parts = [f"{value:+.3f}" + (f" {name}" if name != "1" else "") for name, value in terms.items()]
    return " ".join(parts) or "0"
