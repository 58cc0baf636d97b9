"""A termination test that is a sparse polynomial of the next state: an inequality to be read."""

import logging
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from datasets.dataset import Dataset
from envs.specs import Spec
from world_models.dictionary import (
    Monomials,
    equation,
    input_names,
    library_of,
    powers_of,
    sparse_fit,
    term_names,
)
from world_models.termination import Termination

log = logging.getLogger(__name__)


class SparseTermination(Termination):
    """Ends where a sparse polynomial of the next state exceeds a cut, one for all seeds.

    Thresholded least squares on labels of +-1, both classes with the same weight, gives the
    polynomial; the cut is the one with the best F1 score on the rows of the fit. Data without any
    termination teach that nothing ends.

    Args:
        spec, seeds: spaces of the task; S is not used, the same data serve all.
        degree: of the polynomial.
        threshold, alpha: see `dictionary.sparse_fit`; of features of standard deviation 1.

    Source: ours; SINDy-RL (arXiv:2403.09110) needs none, for its surrogates end at fixed bounds.
    """

    kind = "learned"
    coefficients: Tensor
    cut: Tensor

    def __init__(
        self, *, spec: Spec, seeds: int, degree: int, threshold: float, alpha: float
    ) -> None:
        super().__init__()
        self.degree, self.threshold, self.alpha = degree, threshold, alpha
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
        found = sparse_fit(
            weight * np.c_[(features - centre) / spread, np.ones(len(features))],
            weight * np.where(ended, 1.0, -1.0)[:, None],
            threshold=self.threshold,
            alpha=self.alpha,
        )[0, :-1]
        self.coefficients.copy_(torch.from_numpy(found / spread))
        self.program.to(self.cut.device)
        score = (self.coefficients.cpu() @ self.program.cpu()(seen.next_obs.cpu().mT)).numpy()
        self.program.to(self.cut.device)
        order = np.argsort(-score, kind="stable")
        hits = np.cumsum(ended[order])
        f1 = 2 * hits / (np.arange(1, len(score) + 1) + ended.sum())
        best = int(np.argmax(f1))
        below = score[order[min(best + 1, len(score) - 1)]]
        self.cut.fill_(float(score[order[best]] + below) / 2)
        said = score > self.cut.item()
        terms = {
            name: value
            for name, value in zip(self.names, self.coefficients.tolist(), strict=True)
            if value
        }
        inequality = equation("", terms).removeprefix(" = ") + f" > {self.cut.item():.4g}"
        log.info("an episode ends where %s", inequality)
        return described | {
            "inequality": inequality,
            "precision": float((said & ended).sum() / max(said.sum(), 1)),
            "recall": float((said & ended).sum() / ended.sum()),
        }

    def signature(self) -> dict[str, Any]:
        return {
            "kind": "sparse",
            "degree": self.degree,
            "threshold": self.threshold,
            "alpha": self.alpha,
        }
