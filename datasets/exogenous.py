"""Observations that actions do not affect: set-points, disturbances, weather, demand."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from reverie.datasets.names import bare
from reverie.datasets.readers.columns import listed
from reverie.mistake import Mistake
from reverie.ranges import Whole
from reverie.text import near, one_line

Columns = str | Whole | Sequence[str | Whole] | None
"""Names, patterns such as `T_*`, or indices of observations; None for none."""
Exogenous = Columns


def find_exogenous(
    labels: Sequence[str], said: Exogenous, *, source: str, key: str
) -> tuple[int, ...]:
    """Ascending indices of the exogenous ones of some observations, see `find_columns`.

    Raises:
        Mistake: an observation that there is not, one that is named twice, or all of them.
    """
    found = find_columns(labels, said, source=source, key=key)
    if found and len(found) == len(labels):
        raise Mistake(
            f"{source}: {key} names every observation, so no action moves anything; leave out "
            "those that the actions move"
        )
    return found


def find_columns(labels: Sequence[str], said: Any, *, source: str, key: str) -> tuple[int, ...]:
    """Ascending indices of some observations that a setting names.

    Args:
        labels: a name for every observation, the unit behind it or not.
        said: see `Columns`, or an array of indices; a name may lack its unit.
        source, key: of the data and of the setting, for messages.

    Raises:
        Mistake: an observation that there is not, or one that is named twice.
    """
    found: list[int] = []
    if hasattr(said, "tolist"):  # of NumPy
        said = said.tolist()
    for each in [] if said is None else said if isinstance(said, list | tuple) else [said]:
        each = each.item() if isinstance(each, np.integer) else each
        matching = _matching(labels, each)
        if not matching:
            shown = one_line(str(each), 80)
            close = near(shown, [*labels, *map(bare, labels)])
            names = [label for label in labels if {label, bare(label)} & {*close}]
            told = f"did you mean {' or '.join(names)}?" if names else f"they are {listed(labels)}"
            raise Mistake(f"{source} has no observation {shown!r}, which {key} names; {told}")
        twice = [labels[dim] for dim in matching if dim in found]
        if twice:
            raise Mistake(f"{source}: {key} names {twice[0]} twice; name it once")
        found.extend(matching)
    return tuple(sorted(found))


def _matching(labels: Sequence[str], said: object) -> list[int]:
    if isinstance(said, int) and not isinstance(said, bool):
        return [said] if 0 <= said < len(labels) else []
    if not isinstance(said, str):
        return []
    for exact in (labels, [bare(label) for label in labels]):
        if said in exact:
            return [dim for dim, label in enumerate(exact) if label == said]
    if not set(said) & set("*?"):
        return []
    pattern = "".join({"*": ".*", "?": "."}.get(letter, re.escape(letter)) for letter in said)
    return [
        dim
        for dim, label in enumerate(labels)
        if re.fullmatch(pattern, label) or re.fullmatch(pattern, bare(label))
    ]
