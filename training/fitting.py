"""The fitting stage: fit once, keep the result by fingerprint, refuse what does not match."""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from reverie.datasets.dataset import Dataset
from reverie.mistake import Mistake, writing
from reverie.training.files import load_tensors, save_tensors
from reverie.world_models.base import FitProgress, Fitted

log = logging.getLogger(__name__)


def fitted(
    model: Fitted,
    data: Dataset,
    *,
    group: str,
    cache: Path,
    own: Path | None,
    given: Path | None,
    device: torch.device,
    progress: FitProgress | None,
) -> tuple[dict[str, Any], bool]:
    """Make `model` a fitted one; returns what describes the fit, and whether it was reused.

    A given model is loaded and must suit the data. Otherwise the run's own file is read, then the
    cache is asked for a model of the same signature fitted to the same data; processes that need
    the same one wait for the first to fit it. Fitting is the last resort.

    Args:
        group: the configuration group that chose the model; files of another are refused.
        cache: folder of fitted models, by signature and fingerprint.
        own: where the run keeps a copy of what it used; None for none.
        given: a model the user chose.

    Raises:
        Mistake: the given file is damaged, or of another model, task or dataset.
    """
    if given is not None:
        described = load(model, given, data, device, group=group, free=("seed",))
        if own is not None:
            save(model, own, described, group)
        return described, True
    if own is not None and own.is_file():
        return load(model, own, data, device, group=group), True
    cached = cache / f"{_key(model, data)}.pt"
    with writing(cached, "free some disk space, or set cache=... to a folder that can be written"):
        cached.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(f"{cached}.lock").acquire()
    with held:
        reused = cached.is_file() and _is_readable(cached, group)
        if reused:
            described = load(model, cached, data, device, group=group)
        else:
            partial = cached.with_suffix(".partial.pt")
            kind = f"partial {kind_of(group)}"
            model.keep_partial_fits(
                read=lambda: _read_partial(partial, kind, device),
                write=lambda state: save_tensors(partial, kind, {"state": state}),
            )
            described = model.fit(data, progress)
            model.fitted_on = data.fingerprint
            save(model, cached, described, group)
            partial.unlink(missing_ok=True)
    if own is not None:
        save(model, own, described, group)
    return described, reused


def save(model: Fitted, path: Path, described: dict[str, Any], group: str) -> None:
    """Write a fitted model with what describes its fit."""
    save_tensors(
        path,
        kind_of(group),
        {
            "signature": model.signature(),
            "fitted_on": model.fitted_on,
            "state": model.state_dict(),
            "described": described,
        },
    )


def load(
    model: Fitted,
    path: Path,
    data: Dataset,
    device: torch.device,
    *,
    group: str,
    free: Sequence[str] = (),
) -> dict[str, Any]:
    """Load a fitted model into one built with the same settings, except for those in `free`.

    Raises:
        Mistake: other settings, other spaces, or fitted to other data.
    """
    record = load_tensors(path, kind_of(group), device)
    ours, theirs = model.signature(), record["signature"]
    for name in sorted(set(ours) | set(theirs)):
        if name not in free and ours.get(name) != theirs.get(name):
            raise Mistake(
                f"{path} was fitted with {name}={theirs.get(name)}, this run asks for "
                f"{name}={ours.get(name)}; give {group} the same settings, or leave "
                f"{group}.path empty to fit a new one"
            )
    if record["fitted_on"] != data.fingerprint:
        raise Mistake(
            f"{path} was fitted to data with fingerprint {record['fitted_on']}, dataset "
            f"{data.name} has {data.fingerprint}; leave {group}.path empty to fit a new one"
        )
    model.load_state_dict(record["state"])
    model.fitted_on = record["fitted_on"]
    return record["described"]


def kind_of(group: str) -> str:
    """What a file says it holds."""
    return group.replace("_", " ")


def _read_partial(path: Path, kind: str, device: torch.device) -> dict[str, Any] | None:
    """What a killed fit of the same model to the same data left behind, if it is of use."""
    if not path.is_file():
        return None
    try:
        return load_tensors(path, kind, device)["state"]
    except Mistake as error:
        log.warning("fitting from the start, for the partial fit is of no use: %s", error)
        return None


def _is_readable(path: Path, group: str) -> bool:
    try:
        load_tensors(path, kind_of(group))
    except Mistake as error:
        log.warning("fitting again, for the cached model is of no use: %s", error)
        return False
    return True


def _key(model: Fitted, data: Dataset) -> str:
    text = json.dumps([model.signature(), data.fingerprint, torch.__version__], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]
