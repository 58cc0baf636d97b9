"""`manifest.json`: inputs, outputs, origin and measurements of an exported file."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from reverie.envs.specs import Spec
from reverie.training.export.columns import name_and_unit
from reverie.training.export.controller import TOLERANCE, Measured
from reverie.training.export.folder import KIND, MANIFEST, digest
from reverie.training.files import write_json
from reverie.training.results.summary import versions

Columns = list[dict[str, Any]]
Ranges = Sequence[Sequence[float]] | None
VERSION = 1


def columns(labels: Sequence[str], ranges: Ranges, key: str) -> Columns:
    """Name, unit and range of each column, in the order of the vector.

    Args:
        ranges: `[W, 2]` lowest and highest; None where nobody knows.
        key: what the range is of: `recorded` or `box`.
    """
    found = []
    for index, label in enumerate(labels):
        name, unit = name_and_unit(label)
        range_ = None if ranges is None else [float(each) for each in ranges[index]]
        found.append({"index": index, "name": name, "unit": unit, key: range_})
    return found


def observation_columns(spec: Spec, recorded: Ranges) -> Columns:
    """Of the raw observation."""
    return columns(spec.obs_labels, recorded, "recorded")


def action_columns(spec: Spec) -> Columns:
    """Of the action in the plant's units."""
    return columns(
        spec.action_labels, list(zip(spec.action_low, spec.action_high, strict=True)), "box"
    )


def history(spec: Spec) -> dict[str, Any]:
    """What an observation holds beside what is seen now, and what where there is nothing yet."""
    middle = [(low + high) / 2 for low, high in zip(spec.action_low, spec.action_high, strict=True)]
    return {
        "say": spec.how_to_see,
        "observations": spec.stacked_obs,
        "columns_of_each": spec.newest_dim,
        "actions": spec.stacked_actions,
        "before_the_first_action": middle,
        "kept_by": {"numpy": "Controller in policy.py", "c": "policy_next in policy.h"},
    }


def write(
    folder: Path,
    *,
    what: str,
    format: str,
    spec: Spec,
    inputs: Mapping[str, Columns],
    outputs: Mapping[str, Columns],
    vectors: Mapping[str, Mapping[str, np.ndarray]],
    measured: Measured,
    facts: Mapping[str, Any],
) -> None:
    """Write the manifest of a folder that holds all other files.

    Args:
        vectors: the self-test: arrays `[N, ...]` by name, of `inputs` and `outputs`.
        facts: of the run.
    """
    files = {path.name: digest(path) for path in sorted(folder.iterdir())}
    write_json(
        folder / MANIFEST,
        {
            "kind": KIND,
            "version": VERSION,
            "what": what,
            "format": format,
            "inputs": inputs,
            "outputs": outputs,
            # The actions of so many control steps, one after the other, are one answer.
            **({"chunk": spec.chunk} if spec.chunk > 1 else {}),
            **({"history": history(spec)} if spec.has_history else {}),
            **({"hidden": list(spec.hidden)} if spec.hidden else {}),
            "environment": spec.env_id,
            "exogenous": list(spec.exogenous),
            "wrappers": [str(each.get("name")) for each in spec.wrappers],
            **facts,
            "tolerance": TOLERANCE,
            "measured": asdict(measured),
            "self_test": {
                side: {name: values.tolist() for name, values in arrays.items()}
                for side, arrays in vectors.items()
            },
            "files": files,
            "versions": versions(),
        },
    )
