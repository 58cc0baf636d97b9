"""The probabilistic ensemble, trained on multi-step predictions by generalised teacher forcing.

arXiv:2306.04406 and, of the ensemble, `world_models.ensemble`.
"""

from typing import Any

from reverie.ranges import Count
from reverie.world_models.ensemble import ProbabilisticEnsemble
from reverie.world_models.forcing import Forcing


class ForcedEnsemble(ProbabilisticEnsemble):
    """An ensemble that is always forced, in batches of its own size.

    Args:
        forcing: length of the windows, and strength of teacher forcing.
        select_steps: of the windows that measure the fit; None: those of `forcing`.
        batch: windows per member and update.
        others: see `ProbabilisticEnsemble`; `holdout_fraction` is of whole episodes.
    """

    def __init__(self, *, forcing: Forcing, select_steps: Count | None, **others: Any) -> None:
        steps = forcing.steps if select_steps is None else select_steps
        super().__init__(forcing=forcing, select_steps=steps, **others)
        self.windows = self.batch
        self.forced_steps = forcing.steps

    def signature(self) -> dict[str, Any]:
        fixed = super().signature() | {"select_by": self.select_by}
        if self.select_steps == self.forced_steps:  # as it was before there was a choice
            fixed.pop("select_steps", None)
        return fixed
