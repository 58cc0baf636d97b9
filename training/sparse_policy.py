"""Policies of a few terms: fitted to a teacher's actions, printed, exported to Python and C.

u = middle + half tanh(Xi Theta(x)) with Theta the monomials of the observation and Xi sparse.
SINDy-RL, arXiv:2403.09110, section on sparse policies; relabelling of what the student meets:
DAgger, arXiv:1011.0686. Differs: labels are the teacher's actions before tanh, and tanh stays in
the student, where the paper fits unclipped means and clips.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from envs.specs import Spec
from world_models.dictionary import (
    Monomials,
    ensemble_fit,
    input_names,
    library_of,
    powers_of,
    sparse_fit,
    term_names,
)


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
        """Nonzero coefficients by name, per seed and action."""
        names = term_names(self.powers, input_names(self.spec.obs_dim, 0))
        return [
            [{names[i]: float(row[i]) for i in np.flatnonzero(row)} for row in lane]
            for lane in self.coefficients
        ]

    def equations(self) -> list[list[str]]:
        """In the environment's units, three digits behind the point, per seed and action."""
        return [
            [
                f"u{i} = {middle:g} + {half:g} tanh({_sum(terms)})"
                for i, (terms, middle, half) in enumerate(zip(lane, *self._box(), strict=True))
            ]
            for lane in self.terms()
        ]

    def python(self, lane: int) -> str:
        """A module with a function `act(x)`: a list of D numbers in, one of A numbers out."""
        lines = [
            '"""A sparse policy: raw observation in, action in the environment\'s units out."""',
            "",
            "from math import tanh",
            "",
            "",
            "def act(x):",
            "    return [",
            *(f"        {line}," for line in self._expressions(lane, "**")),
            "    ]",
        ]
        return "\n".join(lines) + "\n"

    def c(self, lane: int) -> str:
        """A C99 file with a function `act`: D numbers in, A numbers out."""
        lines = [
            "/* A sparse policy: raw observation in, action in the environment's units out. */",
            "#include <math.h>",
            "",
            "void act(const double *x, double *u)",
            "{",
            *(f"    u[{i}] = {line};" for i, line in enumerate(self._expressions(lane, "*"))),
            "}",
        ]
        return "\n".join(lines) + "\n"

    def _expressions(self, lane: int, power: str) -> list[str]:
        def product(value: float, exponents: np.ndarray) -> str:
            factors = [repr(float(value))]
            for index, exponent in enumerate(exponents):
                if power == "**" and exponent > 1:
                    factors.append(f"x[{index}] ** {exponent}")
                else:  # C has no operator for it, and pow() is slow
                    factors += [f"x[{index}]"] * int(exponent)
            return " * ".join(factors)

        found = []
        for row, middle, half in zip(self.coefficients[lane], *self._box(), strict=True):
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


def distilled(
    spec: Spec,
    states: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    clean: Sequence[np.ndarray],
    wanted: Sequence[np.ndarray],
    *,
    degrees: Sequence[int],
    thresholds: Sequence[float],
    tolerance: float,
    alpha: float,
    members: int,
    library_ensemble: bool,
    seed: int,
) -> tuple[SparsePolicy, list[dict[str, Any]]]:
    """Fit a policy to every seed's labelled states; returns what was chosen for each as well.

    Every degree and threshold is tried with one fit. Of those whose squared error of the action on
    clean states is within `tolerance` of the least, the one with the fewest terms is fitted again
    as an ensemble, whose median is the policy.

    Args:
        states, targets: `[N, D]` and `[N, A]` labels of each seed.
        clean, wanted: `[M, D]` states without noise and the teacher's actions there, in [-1, 1].
    """
    library = library_of(
        "polynomial", obs_dim=spec.obs_dim, action_dim=0, degree=max(degrees), interactions=True
    )
    powers = powers_of(library, spec.obs_dim, 0)
    program = Monomials(powers)

    def features(rows: np.ndarray) -> np.ndarray:
        return program(torch.from_numpy(rows).double().mT).mT.numpy()

    coefficients = np.zeros((len(states), spec.action_dim, len(powers)))
    chosen = []
    for lane, (rows, aims, judged, truth) in enumerate(
        zip(states, targets, clean, wanted, strict=True)
    ):
        theta, test = features(rows), features(judged)
        tried = []
        for degree in degrees:
            columns = np.flatnonzero(powers.sum(1) <= degree)
            for threshold in thresholds:
                found = sparse_fit(theta[:, columns], aims, threshold=threshold, alpha=alpha)
                error = np.square(np.tanh(test[:, columns] @ found.T) - truth).mean()
                terms = int(np.count_nonzero(found))
                tried.append({"terms": terms, "error": float(error), "degree": degree})
                tried[-1]["threshold"] = threshold
        least = min(each["error"] for each in tried)
        good = [each for each in tried if each["error"] <= (1 + tolerance) * least]
        best = min(good, key=lambda each: (each["terms"], each["error"]))
        columns = np.flatnonzero(powers.sum(1) <= best["degree"])
        fits = ensemble_fit(
            theta[:, columns],
            aims,
            threshold=best["threshold"],
            alpha=alpha,
            members=members,
            bagging=True,
            library_ensemble=library_ensemble,
            seed=[seed, lane],
        )
        coefficients[lane][:, columns] = np.median(fits, 0)
        chosen.append(best | {"terms": int(np.count_nonzero(coefficients[lane]))})
    return SparsePolicy(spec, powers, coefficients), chosen


def _sum(terms: dict[str, float]) -> str:
    parts = [f"{value:+.3f}" + (f" {name}" if name != "1" else "") for name, value in terms.items()]
    return " ".join(parts) or "0"
