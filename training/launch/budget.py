"""Settings that a budget derives from the dataset, and the budget's message.

`source.starts=auto` and `source.records=auto` are the size of a rollout round with which the replay
of synthetic transitions is as large as the dataset. Published settings have this proportion on
D4RL's million rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from reverie.training.launch.options import (
    AUTO,
    CONF,
    LAPTOP,
    PAPER,
    choose_budget,
    limits,
    options,
    read_option,
    tuned,
)

FEWEST, MOST = 10_000, 125_000
"""Rows in a replay of automatic size: fewer are drawn too often, more take too long."""
_SIZES = ("starts", "records")


def sized(source: DictConfig, rows: int, transitions: int = 1) -> DictConfig:
    """Settings of a source with numbers in the place of `auto`.

    Args:
        rows: of the dataset, and those that are collected by the end.
        transitions: of a record of the generator, where there is one.
    """
    own = source.copy()
    for key in _SIZES:
        if own.get(key) == AUTO:
            each = own.get("horizon", 1) * own.retain * transitions
            own[key] = max(1, round(min(max(rows, FEWEST), MOST) / each))
    return own


def with_any_size(source: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a source with some number in the place of `auto`, for a look at the others."""
    return {key: 1 if key in _SIZES and each == AUTO else each for key, each in source.items()}


def told_size(source: DictConfig, rows: int, transitions: int = 1) -> str | None:
    """How large rollout rounds are and why, in words; None where somebody said how large."""
    now = sized(source, rows, transitions)
    for key in _SIZES:
        if source.get(key) == AUTO:
            replay = now[key] * now.get("horizon", 1) * now.retain * transitions
            return (
                f"source.{key}={now[key]:,}, because of {rows:,} recorded rows: the replay holds "
                f"{replay:,}, as many within {FEWEST:,} and {MOST:,}; source.{key}=... is your own"
            )
    return None


def told_budget(
    updates: int,
    choices: Mapping[str, Any],
    typed: Sequence[str] = (),
    called: str | None = None,
) -> str | None:
    """How long the run is and why, in words; None where tuned hyperparameters say it.

    Args:
        updates: of the run.
        choices: options by group.
        typed: what stands on the command line.
        called: what the dataset is called where it was made in Python.
    """
    # Of plans, which no budget limits; or what is no number, which is refused where all are.
    if not updates or not isinstance(updates, int | float):
        return None
    names = [str(choices[group]) for group in ("budget", "algorithm", "dataset")]
    budget, why = choose_budget(names[0], names[1], names[2], called)
    if names[0] == AUTO and budget == PAPER and names[2] in tuned(names[1]):
        return None
    own = any(each.lstrip("+").startswith("updates=") for each in typed)
    because = f", because {why}" if names[0] == AUTO else ""
    told = f"budget {budget}: {updates:,} updates{' as you say' if own else ''}{because}"
    if names[1] not in options("algorithm"):  # whose file lies elsewhere
        return told
    other = PAPER if budget == LAPTOP else LAPTOP
    return f"{told}; budget={other} uses {_updates(other, choices):,}"


def _updates(budget: str, choices: Mapping[str, Any]) -> int:
    """Updates of a run with another budget, unless somebody says how many."""
    algorithm = choices["algorithm"]
    default: Any = OmegaConf.load(CONF / "train.yaml")
    for numbers in (
        tuned(algorithm).get(choices["dataset"], {}),
        limits(budget, choices),
        read_option(f"algorithm/{algorithm}"),
    ):
        if "updates" in numbers:
            return numbers["updates"]
    return default.updates
