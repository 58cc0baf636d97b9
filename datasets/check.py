"""Look at a dataset before trusting it: `python -m datasets.check dataset=... [dataset.key=value]`.

Prints what is in it, and ends with a non-zero status and one line for each thing that would poison
training. Takes the dataset options of `train.py`. Installed, it is `reverie check dataset=...`.
"""

import difflib
import importlib
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from reverie.datasets.dataset import Dataset
from reverie.datasets.readers.d4rl import TASKS
from reverie.mistake import Mistake
from reverie.paths import quote_paths
from reverie.settings import require_declared

SATURATED = 0.99  # |action| beyond which it counts as being at the edge of the box
HUGE = 1e6  # float32 keeps a resolution of 0.06 here; beyond, squared errors lose all meaning
QUANTILES = {
    "min": 0.0,
    "10%": 0.1,
    "25%": 0.25,
    "median": 0.5,
    "75%": 0.75,
    "90%": 0.9,
    "max": 1.0,
}
BINS = 10


@dataclass(frozen=True)
class Report:
    """What a dataset holds.

    Attributes:
        rows, episodes, terminals, time_limits: counts; a time limit is any end that is no terminal.
        without_next: rows without the true next observation.
        not_finite: NaN and Inf entries by column, clean columns left out.
        duplicates: rows that repeat an earlier row exactly.
        constant_obs, constant_action: dimensions that never change.
        equal_obs: pairs of other dimensions that are always equal.
        saturation: share of `|action| > 0.99`, for each dimension.
        rewards, returns, lengths: `QUANTILES` of the rows' rewards and of the episodes'
            undiscounted returns and lengths.
        scores: those of the returns in percent of the reference gap, None without reference.
        histogram, edges: episodes by length, in bins of equal width.
        warnings: what a user should know but may be right.
        problems: what would poison training.
    """

    rows: int
    episodes: int
    terminals: int
    time_limits: int
    without_next: int
    not_finite: Mapping[str, int]
    duplicates: int
    constant_obs: tuple[int, ...]
    constant_action: tuple[int, ...]
    equal_obs: tuple[tuple[int, int], ...]
    saturation: tuple[float, ...]
    rewards: tuple[float, ...]
    returns: tuple[float, ...]
    lengths: tuple[float, ...]
    scores: tuple[float, ...] | None
    histogram: tuple[int, ...]
    edges: tuple[float, ...]
    warnings: tuple[str, ...]
    problems: tuple[str, ...]


def report(dataset: Dataset) -> Report:
    """Measure a dataset of at least one row; nothing is changed or printed."""
    columns = {
        name: getattr(dataset.transitions, name).numpy()
        for name in ("obs", "action", "reward", "next_obs")
    }
    lengths = dataset.episode_lengths.numpy()
    returns = _quantiles(dataset.returns.numpy())
    reference = dataset.reference
    constant_obs = _constant(columns["obs"])
    # More bins than lengths would leave gaps between them.
    spread = int(lengths.max() - lengths.min()) + 1
    histogram, edges = np.histogram(lengths, bins=min(BINS, spread))
    return Report(
        rows=len(dataset),
        episodes=len(lengths),
        terminals=int(dataset.transitions.terminated.sum()),
        time_limits=int(dataset.truncated.sum()),
        without_next=int((~dataset.valid_next).sum()),
        not_finite={
            name: count
            for name, column in columns.items()
            if (count := int((~np.isfinite(column)).sum()))
        },
        duplicates=_duplicates(list(columns.values())),
        constant_obs=constant_obs,
        constant_action=_constant(columns["action"]),
        equal_obs=_equal(columns["obs"], constant_obs),
        saturation=tuple((np.abs(columns["action"]) > SATURATED).mean(axis=0).tolist()),
        rewards=_quantiles(columns["reward"]),
        returns=returns,
        lengths=_quantiles(lengths),
        scores=None if reference is None else tuple(reference.normalise(r) for r in returns),
        histogram=tuple(histogram.tolist()),
        edges=tuple(edges.tolist()),
        warnings=tuple(_warnings(dataset, columns)),
        problems=tuple(_problems(dataset, columns)),
    )


def show(dataset: Dataset, found: Report, console: Console) -> None:
    """Print a report: two tables, then each warning and problem in a line of its own."""
    spec, reference = dataset.spec, dataset.reference
    facts = {
        **dataset.origin,
        "environment": f"{spec.env_id or 'none'} (physics {spec.physics})",
        "spaces": f"{spec.obs_dim} observations, {spec.action_dim} actions",
        "rows": f"{found.rows:,}",
        "episodes": f"{found.episodes:,}",
        "terminals": f"{found.terminals:,} ({found.terminals / found.rows:.2%} of rows)",
        "time limits and cuts": f"{found.time_limits:,}",
        "rows without next obs": f"{found.without_next:,}",
        "NaN or Inf": ", ".join(f"{key} {n:,}" for key, n in found.not_finite.items()) or "none",
        "duplicate rows": f"{found.duplicates:,}",
        "constant observations": _dims(found.constant_obs),
        "equal observations": _dims([f"{i}={j}" for i, j in found.equal_obs]),
        "constant actions": _dims(found.constant_action),
        f"|action| > {SATURATED}": " ".join(f"{share:.1%}" for share in found.saturation),
        "reference": "none (raw returns only)"
        if reference is None
        else f"0 = {reference.low:g}, 100 = {reference.high:g} ({reference.source})",
        "fingerprint": dataset.fingerprint,
    }
    table = Table(title=dataset.name, show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in facts.items():
        table.add_row(label, text)
    console.print(table)

    table = Table("", *QUANTILES)
    rows = {"reward": found.rewards, "length": found.lengths, "return": found.returns}
    rows |= {"score": found.scores} if found.scores is not None else {}
    for label, values in rows.items():
        table.add_row(label, *(f"{value:,.4g}" for value in values))
    console.print(table)

    console.print("episodes by length")
    tallest = max(found.histogram)
    for low, high, count in zip(found.edges, found.edges[1:], found.histogram, strict=False):
        bar = "#" * round(30 * count / tallest)
        console.print(f"{low:10,.0f} to {high:8,.0f} {count:9,} {bar}", highlight=False)
    for line in found.warnings:
        console.print(f"warning: {line}", markup=False, highlight=False, soft_wrap=True)
    for line in found.problems:
        console.print(f"problem: {line}", markup=False, highlight=False, soft_wrap=True)
    if not found.problems:
        console.print("nothing found that would poison training")


def _problems(dataset: Dataset, columns: Mapping[str, np.ndarray]) -> list[str]:
    problems = []
    for name, column in columns.items():
        bad = ~np.isfinite(column).reshape(len(column), -1)
        if bad.any():
            problems.append(
                f"{name} holds {int(bad.sum()):,} NaN or Inf entries, first in row "
                f"{int(np.argmax(bad.any(axis=1)))}; remove or repair those rows"
            )
        largest = float(np.abs(column)[~bad.reshape(column.shape)].max(initial=0.0))
        if name == "action" and largest > 1.0:
            problems.append(f"actions reach {largest:.3g} after scaling to [-1, 1]; clip them")
        elif largest > HUGE:
            problems.append(
                f"{name} reaches {largest:.3g} in absolute value, more than {HUGE:.0e}, beyond "
                "what float32 training bears; rescale it or remove the rows"
            )
    if len(_constant(columns["action"])) == columns["action"].shape[1]:
        problems.append("all actions are the same, so nothing can be learned about choosing one")
    terminated, valid_next = dataset.transitions.terminated.numpy(), dataset.valid_next.numpy()
    if terminated.all():
        problems.append("every row is terminal, so no value reaches beyond one step")
    if not valid_next.any():
        problems.append("no row has its true next observation, so no dynamics can be learned")
    # The mark of files made by shifting the observations by one row across the ends of episodes.
    ends = (dataset.episode_starts[1:] - 1).numpy()
    ends = ends[(terminated & valid_next)[ends]]
    resets = int((columns["next_obs"][ends] == columns["obs"][ends + 1]).all(axis=1).sum())
    if resets:
        problems.append(
            f"in {resets:,} of {len(ends):,} terminal rows the next observation is the first of "
            "the following episode; store the true one, or leave next_observations out"
        )
    return problems


def _warnings(dataset: Dataset, columns: Mapping[str, np.ndarray]) -> list[str]:
    warnings = []
    limit = dataset.spec.max_episode_steps
    lengths = dataset.episode_lengths.numpy()
    ended = dataset.transitions.terminated.numpy()[dataset.episode_starts.numpy() + lengths - 1]
    if ended.sum() > 1 and np.all(lengths[ended] == limit):
        warnings.append(
            f"all {ended.sum():,} terminated episodes last exactly the time limit of {limit} "
            "steps: are time limits stored as terminals? They would cut the bootstrap"
        )
    constant = _constant(columns["action"])
    if 0 < len(constant) < dataset.spec.action_dim:
        warnings.append(f"actions {_dims(constant)} never change")
    if (columns["reward"] == columns["reward"][0]).all():
        warnings.append(f"every reward is {columns['reward'][0]:g}")
    if dataset.spec.env_id is None:
        warnings.append("no environment is named, so policies cannot be scored")
    return warnings


def _constant(column: np.ndarray) -> tuple[int, ...]:
    return tuple(np.flatnonzero((column == column[0]).all(axis=0)).tolist())


def _equal(column: np.ndarray, constant: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Pairs of dimensions that are always equal, constant ones left out."""
    varying = [dim for dim in range(column.shape[1]) if dim not in constant]
    pairs = []
    for index, i in enumerate(varying):
        for j in varying[index + 1 :]:
            # The first row rules out nearly every pair.
            if column[0, i] == column[0, j] and (column[:, i] == column[:, j]).all():
                pairs.append((i, j))
    return tuple(pairs)


def _duplicates(columns: Sequence[np.ndarray]) -> int:
    """Rows that are, bit for bit, equal to an earlier one."""
    bits = np.concatenate(
        [column.reshape(len(column), -1).view(np.uint32) for column in columns], axis=1
    )
    # A cheap key leaves few rows to compare in full: equal rows have equal keys.
    key = np.zeros(len(bits), np.uint64)
    for column in bits.T:
        key = (key ^ column) * np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(29)
    _, group, sizes = np.unique(key, return_inverse=True, return_counts=True)
    suspects = np.ascontiguousarray(bits[sizes[group] > 1])
    if not len(suspects):
        return 0
    rows = suspects.view(np.dtype((np.void, suspects.shape[1] * suspects.itemsize))).reshape(-1)
    return len(rows) - len(np.unique(rows))


def _quantiles(values: np.ndarray) -> tuple[float, ...]:
    return tuple(np.quantile(values.astype(np.float64), list(QUANTILES.values())).tolist())


def _dims(dims: Sequence[object]) -> str:
    shown = ", ".join(str(dim) for dim in dims[:20])
    return (shown + (f", ... ({len(dims)} in all)" if len(dims) > 20 else "")) or "none"


# The command line: the only place below train.py that knows Hydra.

CONF = Path(__file__).resolve().parent.parent / "conf"


def main() -> None:
    """End the process with the status of `check`, of what was typed."""
    sys.exit(check(sys.argv[1:]))


def check(arguments: Sequence[str]) -> int:
    """Check the dataset that the overrides choose; returns the exit status."""
    logging.basicConfig(level=logging.WARNING, format="warning: %(message)s")
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__.strip())
        return 0 if arguments else 2
    try:
        dataset = _load(arguments)
    except Mistake as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    found = report(dataset)
    show(dataset, found, Console())
    return 1 if found.problems else 0


def _load(arguments: Sequence[str]) -> Dataset:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    arguments = quote_paths(arguments)
    chosen = [item.partition("=")[2] for item in arguments if item.startswith("dataset=")]
    settings = [item for item in arguments if item.startswith("dataset.")]
    if len(chosen) != 1 or len(settings) + 1 != len(arguments):
        raise Mistake(
            f"expected dataset=... and dataset.key=value only, found {' '.join(arguments)!r}; e.g. "
            "python -m reverie.datasets.check dataset=file dataset.path=my.hdf5"
        )
    option, _, id_ = chosen[0].partition("/")
    if option == "d4rl" and id_ in TASKS:  # a row of that table, not a file
        return _load(["dataset=d4rl", f"dataset.id={id_}", *settings])
    try:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            # There is no primary config here, so the group is added rather than replaced.
            config = compose(
                overrides=[
                    f"+{item}" if item.startswith("dataset=") else item for item in arguments
                ]
            )
        options: Any = OmegaConf.to_container(config.dataset, resolve=True, throw_on_missing=True)
    except MissingConfigException as error:
        raise Mistake(f"there is no dataset={chosen[0]}; {_available(chosen[0])}") from error
    except MissingMandatoryValue as error:
        key = error.full_key
        raise Mistake(f"{key} has no value; give it on the command line, {key}=...") from error
    except (HydraException, OmegaConfBaseException) as error:
        wrong = re.search(r"Could not override '([^']+)'", str(error))
        if wrong:
            raise Mistake(
                f"there is no setting {wrong[1]}; the file conf/dataset/{chosen[0]}.yaml lists them"
            ) from error
        raise Mistake(f"the options do not fit dataset={chosen[0]}: {error}") from error
    require_declared(options, prefix="dataset.")
    module, _, function = options.pop("_target_").rpartition(".")
    return getattr(importlib.import_module(module), function)(**options)


def _available(wrong: str) -> str:
    folder = CONF / "dataset"
    options = sorted(
        path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")
    )
    close = difflib.get_close_matches(wrong, [*options, *(f"d4rl/{id_}" for id_ in TASKS)], 3)
    return f"did you mean {' or '.join(close)}?" if close else f"use one of {', '.join(options)}"


if __name__ == "__main__":
    main()
