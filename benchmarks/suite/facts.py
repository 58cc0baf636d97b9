"""What is known of a dataset of the suite, and whether two builds of it are the same.

No two platforms give the same bits: a step of MuJoCo or of torch that differs in its last digit
makes another training and another policy. So a build is compared in two ways. `fingerprint`, the
digest of all rows, tells a build of the same machine and versions, and a damaged file. `compare`
holds for any machine: the returns of the policies on the recorded scale, and where no policy was
trained, for uniformly random actions, the mean of every column within its standard error.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reverie import datasets
from reverie.benchmarks.suite.tasks import DATASETS
from reverie.datasets.dataset import Dataset
from reverie.envs.specs import Reference
from reverie.mistake import Mistake

RANDOM_ERRORS = 6.0
"""Standard errors, over episodes, by which means of random episodes may differ between two builds:
some twenty columns at once, whose episodes are few and their means not quite normal."""
SCORES = {"medium": 25.0, "medium-replay": 25.0, "expert": 15.0}
"""Points of the recorded scale by which mean returns of recorded episodes may differ. Training
chooses the policies, and the range of a medium one alone is 17 points wide."""


def load(folder: Path, id: str) -> Dataset:
    """A dataset of the suite in this folder."""
    return datasets.load("minari", id=id, path=str(folder / DATASETS), download=False)


def describe(data: Dataset) -> dict[str, Any]:
    """Rows, ends, returns and columns of a dataset, as plain values.

    Means of columns come with their standard errors over episodes, for rows of one are not
    independent.
    """
    rows = data.transitions
    returns = data.returns[data.whole].double()
    columns = torch.cat([rows.obs, rows.action, rows.reward.unsqueeze(-1)], -1).double()
    lengths = data.episode_lengths
    owner = torch.arange(len(lengths)).repeat_interleave(lengths)
    summed = torch.zeros(len(lengths), columns.shape[-1], dtype=torch.float64)
    summed.index_add_(0, owner, columns)
    mean = columns.mean(0)
    # Of a ratio of sums over episodes, which may be of unequal length.
    left = summed - lengths.unsqueeze(-1) * mean
    error = left.square().sum(0).sqrt() / len(data)
    return {
        "fingerprint": data.fingerprint,
        "rows": len(data),
        "episodes": len(lengths),
        "terminated": int(rows.terminated.sum()),
        "return_mean": float(returns.mean()),
        "return_error": float(returns.std() / len(returns) ** 0.5) if len(returns) > 1 else None,
        "return_best": float(returns.max()),
        "score_mean": None if data.reference is None else float(_score(data, returns)),
        "columns": {
            "names": [*data.spec.obs_labels, *data.spec.action_labels, "reward"],
            "mean": mean.tolist(),
            "std": columns.std(0, correction=0).tolist(),
            "error": error.tolist(),
        },
    }


def _score(data: Dataset, returns: torch.Tensor) -> Any:
    assert data.reference is not None
    return data.reference.normalise(returns.mean())


def checksum(folder: Path, id: str) -> str:
    """SHA-256 of the file that holds the rows of a dataset.

    Raises:
        Mistake: there is none, or it cannot be read.
    """
    path = folder / DATASETS / id / "data" / "main_data.hdf5"
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Mistake(
            f"{path} cannot be read ({error.strerror or error}); build that task again"
        ) from error


def compare(
    kind: str, mine: Mapping[str, Any], recorded: Mapping[str, Any], reference: Reference
) -> list[str]:
    """What differs by more than platforms do between a build and the recorded one, in words.

    Args:
        kind: of the dataset.
        mine, recorded: from `describe`.
        reference: the recorded returns that score 0 and 100.

    Returns:
        One sentence a difference; none where both are alike.
    """
    if mine["fingerprint"] == recorded["fingerprint"]:
        return []
    found = []
    scale = 100.0 / (reference.high - reference.low)
    means = [each["return_mean"] for each in (mine, recorded)]
    if kind == "random":
        spread = [each["return_error"] or 0.0 for each in (mine, recorded)]
        allowed = RANDOM_ERRORS * scale * float(np.hypot(spread[0], spread[1]))
    else:
        allowed = SCORES[kind]
    if not abs(means[0] - means[1]) * scale <= allowed:
        found.append(
            f"mean return {means[0]:.4g}, recorded {means[1]:.4g}: "
            f"{scale * abs(means[0] - means[1]):.1f} points apart, allowed {allowed:.1f}"
        )
    if kind == "random":
        found += _columns(mine["columns"], recorded["columns"])
        if mine["rows"] != recorded["rows"]:
            found.append(f"{mine['rows']} rows, recorded {recorded['rows']}")
    return found


def _columns(mine: Mapping[str, Any], recorded: Mapping[str, Any]) -> list[str]:
    """Columns whose means lie further apart than chance puts them."""
    if mine["names"] != recorded["names"]:
        return [f"columns {', '.join(mine['names'])}, recorded {', '.join(recorded['names'])}"]
    means, errors = (np.array([own[key] for own in (mine, recorded)]) for key in ("mean", "error"))
    # A column that never changes is told by the last digits of a float32.
    room = RANDOM_ERRORS * np.hypot(*errors) + 1e-5 * np.abs(means).max(0) + 1e-6
    apart = np.abs(means[0] - means[1]) > room
    return [
        f"mean of {name} {means[0, at]:.4g}, recorded {means[1, at]:.4g}"
        for at, name in enumerate(mine["names"])
        if apart[at]
    ]
