"""What is damaged, who reads it, and what must come of it.

A subject prepares whole files once. An attempt copies them, damages one, lets a command read it,
and judges: `"right"` values, `"refused"` in one line that names the file, or a fault in words.
"""

import os
from collections.abc import Mapping

from tests.robustness.judging import Subject
from tests.robustness.recordings import File, Minari
from tests.robustness.runs import MOPO, PLANT, PLANT_READERS, READERS, Run
from tests.robustness.tables import Formulas, Table
from tests.robustness.typed import Settings

SUBJECTS: Mapping[str, tuple[float, Subject]] = {
    "hdf5": (0.2, File(".hdf5")),
    "npz": (0.15, File(".npz")),
    "minari": (0.2, Minari()),
    "run": (0.3, Run(MOPO, READERS)),
    "settings": (0.15, Settings()),
    "plant": (0.2, Run(PLANT, PLANT_READERS, table=True)),
    "csv": (0.15, Table(".csv")),
    "parquet": (0.1, Table(".parquet")),
    "formulas": (0.1, Formulas()),
}
"""Share of the attempts by subject."""

os.environ.setdefault("OMP_NUM_THREADS", "1")
