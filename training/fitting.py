"""The fitting stage: fit once, cache the result by fingerprint, refuse what does not match."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from rich.console import Console

from reverie.datasets.dataset import Dataset
from reverie.datasets.storage import require_memory
from reverie.mistake import Mistake, writing
from reverie.temporary import remove_abandoned
from reverie.text import printable
from reverie.training.files import (
    load_tensors,
    require_finite,
    save_tensors,
    write_atomically,
    write_json,
    write_text,
)
from reverie.training.loop import Wrapper
from reverie.training.progress import stage
from reverie.training.results.shape import complaint_of_fit
from reverie.training.stored import contents_of
from reverie.world_models import diagnostics, dreams
from reverie.world_models.base import FitProgress, Fitted, Policy, WorldModel
from reverie.world_models.morec import diagnostics as selection_diagnostics
from reverie.world_models.sources import BranchedRollouts, RolloutSource

FITTED = ("world_model", "dynamics_reward", "generator", "behaviour")
"""Groups whose option is fitted to the dataset before training, in this order."""
INVERSE = "inverse_model"
"""One that is fitted earlier still, for it makes the dataset complete."""
_REPAIR = (
    "restore it, or give another path; where it lies in a run directory, an unfinished run makes "
    "it again once it is deleted, a finished one with overwrite=true"
)
COPIES = 3.0
"""Of all rows, that a fit holds at once at most: those it may see, its table, what it measures."""
PAUSE = 10.0
"""Least seconds between two lines about a fit, where there is no progress bar."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """A part that is fitted to the dataset before training, such as a world model.

    Attributes:
        model: as it was built.
        given: a file with the same model fitted, which the user chose; None to fit or reuse one.
        random: state of torch's generator after it was built, from which its fit goes on; None to
            go on from wherever the generator is.
    """

    model: Fitted
    given: Path | None = None
    random: torch.Tensor | None = None


def fit(
    group: str,
    part: Part,
    data: Dataset,
    *,
    cache: Path,
    directory: Path | None,
    device: torch.device,
    compile: Wrapper,
    console: Console,
) -> dict[str, Any]:
    """Fit a part (or reuse one fitted earlier), measure it once, and describe the fit.

    Args:
        group: of the configuration, such as `world_model`; it names the files.
        cache: folder that holds a folder of fitted models for each group.
        directory: of the run, which keeps a copy and what was measured; None keeps nothing.
        compile: what the training step of the fit is passed through.
    """
    model, name = part.model, group.replace("_", " ")
    require_memory(data, COPIES, f"the fit of the {name}")
    if part.random is not None:
        torch.set_rng_state(part.random)
    model.compile_update(compile)
    with stage(f"{name}, {model.fit_unit}", model.fit_total, console) as shown:

        def on_progress(done: int, loss: float) -> None:
            shown.first = model.fit_first
            shown.advance_to(done)
            shown.report(done, f"{model.fit_measure} {loss:.4g}", pause=PAUSE)

        described, reused = fit_or_load(
            model,
            data,
            group=group,
            cache=cache / f"{group}s",
            own=None if directory is None else directory / f"{group}.pt",
            given=part.given,
            device=device,
            progress=on_progress,
        )
    if isinstance(model, WorldModel):
        model.replay_exogenous(data)
    if reused:
        console.print(f"{name}: reused, fitted earlier to the same data", highlight=False)
    if directory is not None:
        _describe(group, model, data, described, directory)
    return described


def _describe(
    group: str, model: Fitted, data: Dataset, described: Mapping[str, Any], directory: Path
) -> None:
    """Write what describes a fit, and of a world model how far it can be trusted, once."""
    picture = directory / f"{group}.png"
    if not isinstance(model, WorldModel):
        write_json(directory / f"{group}.json", described)
    elif not picture.is_file():
        measured = {**described, **diagnostics.measure(model, data)}
        write_json(directory / f"{group}.json", measured)
        diagnostics.plot(measured, picture)
        _warn_of_lost_columns(model, data, measured["one_step"]["rmse"])


def _warn_of_lost_columns(
    model: WorldModel, data: Dataset, rmse: Sequence[Sequence[float | None]]
) -> None:
    """Say which observations the model predicts worse than a constant change would, by seed."""
    worst = {
        label: max(own)
        for label, *errors in zip(data.spec.obs_labels, *rmse, strict=True)
        if (own := [each for each in errors if each is not None and each > 1.0])
    }
    if worst:
        named = ", ".join(f"{printable(label)} ({error:.3g})" for label, error in worst.items())
        log.warning(
            "the world model predicts %s worse than a constant change would (error of a step by "
            "the standard deviation of steps): do not trust what it says; %s, and give what "
            "changes by less than 0.001 a step in smaller units",
            named,
            model.better_fit,
        )


def draw_dreams(
    model: WorldModel,
    data: Dataset,
    directory: Path,
    *,
    policy: Policy | None,
    seeds: int,
    title: str,
) -> None:
    """Write recorded beside imagined traces, as a picture and as the numbers behind it."""
    traces = dreams.trace(model, data, policy=policy, seeds=seeds)
    figure = dreams.plot(traces, title)
    write_text(directory / "dreams.json", json.dumps(traces, allow_nan=False) + "\n")
    write_atomically(
        directory / "dreams.png", lambda file: figure.savefig(file, format="png", dpi=90)
    )


def measure_selection(
    parts: Mapping[str, Part],
    sources: Mapping[str, RolloutSource],
    data: Dataset,
    directory: Path,
) -> None:
    """Write how well a dynamics reward chooses and what its filter does to rollouts, once."""
    picture = directory / "selection.png"
    filters = [source.filter for source in sources.values() if isinstance(source, BranchedRollouts)]
    if "dynamics_reward" not in parts or picture.is_file() or not filters:
        return
    model, reward = (parts[group].model for group in ("world_model", "dynamics_reward"))
    measured = selection_diagnostics.measure(model, reward, filters[0], data)  # type: ignore[arg-type]
    figure = selection_diagnostics.figure(measured)
    del measured["one_step"]["points"]
    write_json(directory / "selection.json", measured)
    write_atomically(picture, lambda file: figure.savefig(file, format="png", dpi=120))


def fit_or_load(
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
        Mistake: the given file, or the run's own, is damaged or of another model, task or dataset;
            the fit diverged.
    """
    if given is not None:
        if given.is_dir():
            raise Mistake(
                f"{group}.path={given} is a folder; give the file, such as {given / group}.pt of a "
                "run directory"
            )
        if not given.is_file():
            raise Mistake(
                f"{group}.path={given} does not exist; correct it, or leave {group}.path empty to "
                "fit a new one"
            )
        described = load(model, given, data, device, group=group, free=("seed", "columns"))
        if own is not None:
            save(model, own, described, group)
        return described, True
    if own is not None and own.is_file():
        return load(model, own, data, device, group=group), True
    cached = cached_path(model, data, cache)
    if not os.access(cached.parent, os.W_OK):  # nor can a lock be held there
        found = _read_cached(model, cached, data, device, group)
        if found is not None:
            if own is not None:
                save(model, own, found, group)
            return found, True
    with writing(cached, "free some disk space, or set cache=... to a folder that can be written"):
        cached.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(cached.parent)
        held = FileLock(f"{cached}.lock").acquire()
    with held:
        found = _read_cached(model, cached, data, device, group)
        reused = found is not None
        if found is not None:
            described = found
        else:
            partial = cached.with_suffix(".partial.pt")
            kind = f"partial {kind_of(group)}"
            model.keep_partial_fits(
                read=lambda: _read_partial(partial, kind, device),
                write=lambda state: save_tensors(partial, kind, {"state": state}),
            )
            described = model.fit(data, progress)
            model.fitted_on = data.fingerprint
            partial.unlink(missing_ok=True)
            require_finite(cached, model, model.state_dict(), _diverged(group))
            save(model, cached, described, group)
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
        Mistake: damaged; other settings, other spaces, or fitted to other data; not finite.
    """
    record = load_tensors(path, kind_of(group), device, _REPAIR)
    ours = model.signature()
    with contents_of(path, f"a {kind_of(group)}", _REPAIR):
        theirs, fitted_on = dict(record["signature"]), str(record["fitted_on"])
        described = dict(record["described"])
        if isinstance(model, WorldModel) and (wrong := complaint_of_fit(described)):
            raise ValueError(wrong)
    for name in sorted(set(ours) | set(theirs)):
        if name not in free and ours.get(name) != theirs.get(name):
            raise Mistake(
                f"{path} was fitted with {name}={theirs.get(name)}, this run asks for "
                f"{name}={ours.get(name)}; give {group} the same settings, or leave "
                f"{group}.path empty to fit a new one"
            )
    if fitted_on != data.fingerprint:
        raise Mistake(
            f"{path} was fitted to data with fingerprint {fitted_on}, dataset "
            f"{data.name} has {data.fingerprint}; leave {group}.path empty to fit a new one"
        )
    _take(model, path, record, group)
    model.fitted_on = fitted_on
    return described


def load_weights(model: Fitted, path: Path, group: str, device: torch.device) -> None:
    """Load a fitted model as it is, whatever it was fitted to.

    Raises:
        Mistake: damaged, or not finite.
    """
    _take(model, path, load_tensors(path, kind_of(group), device, _REPAIR), group)


def _take(model: Fitted, path: Path, record: Mapping[str, Any], group: str) -> None:
    with contents_of(path, f"a {kind_of(group)}", _REPAIR):
        require_finite(path, model, record["state"], _diverged(group))
        model.load_state_dict(record["state"])


def _diverged(group: str) -> str:
    return f"lower the learning rates under {group} and fit again (a run: with overwrite=true)"


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


def _read_cached(
    model: Fitted, path: Path, data: Dataset, device: torch.device, group: str
) -> dict[str, Any] | None:
    """Load what the cache holds and what describes it; None where it holds nothing of use."""
    if not path.is_file():
        return None
    try:
        return load(model, path, data, device, group=group)
    except Mistake as error:
        log.warning("fitting again, for the cached model is of no use: %s", error)
        return None


def cached_path(model: Fitted, data: Dataset, cache: Path) -> Path:
    """Where a cache keeps this model fitted to these data."""
    text = json.dumps([model.signature(), data.fingerprint, torch.__version__], sort_keys=True)
    return cache / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.pt"
