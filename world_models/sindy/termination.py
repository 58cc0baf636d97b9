"""A termination test that is a sparse polynomial of the next state: an inequality to be read."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.ranges import Count, NonNegative
from reverie.world_models.sindy.dictionary import (
    Monomials,
    equation,
    input_names,
    library_of,
    powers_of,
    sparse_fit,
    term_names,
)
from reverie.world_models.termination import Termination

log = logging.getLogger(__name__)


class SparseTermination(Termination):
    """Ends where a sparse polynomial of the next state exceeds a cut, one for all seeds.

    Thresholded least squares on labels of +-1, both classes with the same weight, gives a
    polynomial for each threshold, and each its own best cut. The best F1 score on the rows of the
    fit decides, among equals the sparsest. Data without any termination teach that nothing ends.

    Args:
        spec, seeds: spaces of the task; S is not used, the same data serve all.
        degree: of the polynomial.
        thresholds: ascending, see `dictionary.sparse_fit`; of features of standard deviation 1.
        alpha: see `dictionary.sparse_fit`.

    Source: ours; SINDy-RL (arXiv:2403.09110) needs none, for its surrogates end at fixed bounds.
    """

    kind = "learned"
    coefficients: Tensor
    cut: Tensor

    def __init__(
        self,
        *,
        spec: Spec,
        seeds: int,
        degree: Count,
        thresholds: Sequence[NonNegative],
        alpha: NonNegative,
    ) -> None:
        super().__init__()
        if not thresholds or list(thresholds) != sorted(thresholds):
            raise Mistake(
                f"world_model.terminal_head.thresholds={list(thresholds)} must ascend and not be "
                "empty"
            )
        self.degree, self.thresholds, self.alpha = degree, list(thresholds), alpha
        sizes = {"obs_dim": spec.obs_dim, "action_dim": 0}
        library = library_of("affine", **sizes, degree=degree, interactions=True)
        powers = powers_of(library, **sizes)
        self.names = term_names(powers, input_names(**sizes))
        self.program = Monomials(powers)
        self.register_buffer("coefficients", torch.zeros(len(powers)))
        self.register_buffer("cut", torch.tensor(torch.inf))

    def forward(
        self,
        obs: Float[Tensor, "*lead D"],
        action: Float[Tensor, "*lead A"],
        next_obs: Float[Tensor, "*lead D"],
    ) -> Bool[Tensor, "*lead"]:
        return (self.coefficients @ self.program(next_obs.mT)) > self.cut

    def fit(self, data: Dataset, rows: Tensor) -> dict[str, Any]:
        """Fit to the rows whose next observation is known; returns `inequality` and its scores."""
        seen = data.transitions[rows & data.valid_next]
        ended = seen.terminated.cpu().numpy()
        described: dict[str, Any] = {"kind": self.kind, "terminals": int(ended.sum())}
        if not ended.any() or ended.all():
            self.cut.fill_(-torch.inf if ended.any() else torch.inf)
            log.info(
                "dataset %s holds %s: the learned rule says %s",
                data.name,
                "nothing but terminations" if ended.any() else "no termination",
                "always" if ended.any() else "never",
            )
            return described | {"inequality": None, "precision": None, "recall": None}
        features = self.program.cpu()(seen.next_obs.double().cpu().mT).mT.numpy()
        centre, spread = features.mean(0), np.maximum(features.std(0), 1e-6)
        weight = np.sqrt(np.where(ended, 0.5 / ended.mean(), 0.5 / (1 - ended.mean())))[:, None]
        inputs = weight * np.c_[(features - centre) / spread, np.ones(len(features))]
        aims = weight * np.where(ended, 1.0, -1.0)[:, None]
        best = -1.0
        for threshold in self.thresholds:
            found = sparse_fit(inputs, aims, threshold=threshold, alpha=self.alpha)[0, :-1] / spread
            score = features @ found
            cut = _best_cut(score, ended)
            said = score > cut
            hits = (said & ended).sum()
            f1 = 2 * hits / (said.sum() + ended.sum())
            if f1 >= best:  # thresholds ascend, so the later one is the sparser
                best = f1
                precision, recall = float(hits / max(said.sum(), 1)), float(hits / ended.sum())
                self.coefficients.copy_(torch.from_numpy(found))
                self.cut.fill_(cut)
        self.program.to(self.cut.device)
        terms = {
            name: value
            for name, value in zip(self.names, self.coefficients.tolist(), strict=True)
            if value
        }
        inequality = equation("", terms).removeprefix(" = ") + f" > {self.cut.item():.4g}"
        log.info("an episode ends where %s", inequality)
        return described | {
            "inequality": inequality,
            "precision": precision,
            "recall": recall,
        }

    def signature(self) -> dict[str, Any]:
        return {
            "kind": "sparse",
            "degree": self.degree,
            "thresholds": self.thresholds,
            "alpha": self.alpha,
        }


def _best_cut(score: np.ndarray, ended: np.ndarray) -> float:
    """Half-way between the two neighbouring scores that divide with the best F1."""
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(ended[order])
    last = int(np.argmax(hits / (np.arange(1, len(score) + 1) + ended.sum())))
    below = score[order[min(last + 1, len(score) - 1)]]
    return float(score[order[last]] + below) / 2
