"""The probabilistic ensemble, trained on many steps in a row by generalised teacher forcing.

arXiv:2306.04406 and, of the ensemble, `world_models.ensemble`.
"""

from typing import Any, Literal

from reverie.world_models.ensemble import ProbabilisticEnsemble
from reverie.world_models.forced_fit import SelectBy
from reverie.world_models.forcing import Forcing


class ForcedEnsemble(ProbabilisticEnsemble):
    """An ensemble that is always forced, with a choice of what stops its fit.

    Args:
        forcing: length of the windows, and how strongly they are drawn to the record.
        select_by: what stops the fit and chooses weights and elites, see `ForcedFit`.
        batch: windows per member and update.
        others: see `ProbabilisticEnsemble`; `holdout_fraction` is of whole episodes.
    """

    def __init__(
        self, *, forcing: Forcing, select_by: Literal["one_step", "multi_step"], **others: Any
    ) -> None:
        super().__init__(forcing=forcing, **others)
        self.select_by: SelectBy = select_by
        self.windows = self.batch

    def signature(self) -> dict[str, Any]:
        return super().signature() | {"select_by": self.select_by}
