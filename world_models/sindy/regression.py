"""The regressions of E-SINDy: thresholds by a knee, and one seed's ensemble, with pysindy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reverie.world_models.sindy.dictionary import (
    CONSTANT,
    ensemble_fit,
    irreducible,
    knee,
    sparse_fit,
)

Table = tuple[np.ndarray, np.ndarray]
"""Features `[R, F]` and targets `[R, D + 1]`, float64: next state, then reward."""


@dataclass(frozen=True)
class Regression:
    """Two regressions apart, of the state and of the reward, each on its own features.

    Attributes:
        powers, of_state: see `sparse_equations.SparseEquations`.
        settings: of `sindy.SINDy`.
        sines: columns that enter a monomial at most once.
    """

    powers: np.ndarray
    of_state: np.ndarray
    settings: dict[str, Any]
    sines: Sequence[int]

    def choose(self, path: Table, judge: Table) -> tuple[dict[str, float], dict[str, list[float]]]:
        """A threshold for state and reward, and the held-out error of every candidate."""
        thresholds: dict[str, float] = {}
        paths: dict[str, list[float]] = {}
        for part, targets, given in self._parts():
            columns = self._columns(part)
            candidates = self.settings["thresholds"] if given is None else [given]
            fitted, aims = path[0][:, columns], path[1][:, targets]
            test, truth = judge[0][:, columns], judge[1][:, targets]
            unit = np.where(truth.std(0) > CONSTANT, truth.std(0), 1.0)
            errors = []
            for threshold in candidates:
                found = sparse_fit(fitted, aims, threshold=threshold, alpha=self.settings["alpha"])
                off = (test @ found.T - truth) / unit
                errors.append(float(np.sqrt(np.square(off).mean(0)).mean()))
            cliff, tolerance = self.settings["cliff"], self.settings["tolerance"]
            thresholds[part] = candidates[knee(errors, cliff, tolerance)]
            paths[part] = errors
        return thresholds, paths

    def solve(
        self, table: Table, judge: Table, thresholds: dict[str, float], seed: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Median `[D + 1, F]`, members `[E, D + 1, F]` and held-out residuals `[D + 1]`."""
        # Kind 0 has the median that predicts, kind 1 the members that spread.
        shape = (2, self.settings["members"], table[1].shape[1], len(self.powers))
        members = np.zeros(shape)
        for part, targets, _ in self._parts():
            columns = self._columns(part)
            for kind, ensembling in enumerate((self.settings["library_ensemble"], False)):
                if kind and not self.settings["library_ensemble"]:
                    members[1, :, targets] = members[0, :, targets]
                    continue
                block = members[kind, :, targets]
                block[..., columns] = ensemble_fit(
                    table[0][:, columns],
                    table[1][:, targets],
                    threshold=thresholds[part],
                    alpha=self.settings["alpha"],
                    members=self.settings["members"],
                    bagging=self.settings["bagging"],
                    library_ensemble=ensembling,
                    seed=[*seed, kind],
                )
        median = np.median(members[0], 0)
        residual = judge[1] - judge[0] @ median.T
        return median, members[1], np.sqrt(np.square(residual).mean(0))

    def _columns(self, part: str) -> np.ndarray:
        """Numbers of the features that a part of the targets may use."""
        own = np.flatnonzero(self.of_state == (part == "state"))
        if self.settings["library" if part == "state" else "reward_library"] == "affine":
            return own  # the paper's, singular as it is where angles are pairs
        return own[irreducible(self.powers[own], self.sines)]

    def _parts(self) -> tuple[tuple[str, slice, float | None], ...]:
        """What is fitted apart: its name, its targets, its given threshold."""
        return (
            ("state", slice(None, -1), self.settings["threshold"]),
            ("reward", slice(-1, None), self.settings["reward_threshold"]),
        )
