"""How an attempt ended: right, refused in one line that names what is damaged, or a fault."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.robustness.mutations import Random
from tests.robustness.sandbox import Outcome

RIGHT, REFUSED = "right", "refused"


@dataclass(frozen=True)
class Attempt:
    """One damage and what came of it.

    Attributes:
        how: the damage, and the command that met it.
        verdict: `RIGHT`, `REFUSED`, or a fault.
        outcome: of the command.
    """

    how: str
    verdict: str
    outcome: Outcome


class Subject(Protocol):
    """Something that can be damaged."""

    def prepare(self, folder: Path) -> None:
        """Make whole files below `folder`."""

    def attempt(self, rng: Random, whole: Path, folder: Path) -> Attempt:
        """Damage a copy of what `prepare` made in `whole`, in the empty `folder`."""


def judge_refusal(outcome: Outcome, *names: str, may_warn: bool = False) -> str:
    """`REFUSED` in one line that holds one of `names`, `RIGHT` if nothing was refused, or a fault.

    Args:
        outcome: of the command.
        names: of what was damaged.
        may_warn: whether a status of 1 without an error is in order, as of a check that found
            problems.
    """
    fault = outcome.fault()
    if fault is not None:
        return fault
    if not outcome.errors:
        silent = outcome.status > int(may_warn)
        return f"ends with {outcome.status}, silently" if silent else RIGHT
    if outcome.status == 0:
        return "prints an error and ends with 0"
    if "weights_only=False" in outcome.errors[0] or "weights_only" in outcome.errors[0]:
        return "advises to open the file unsafely"
    return REFUSED if any(name in outcome.errors[0] for name in names) else "does not name the file"


def require(outcome: Outcome) -> None:
    assert outcome.status == 0, outcome


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def changed_files(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Files of before that are no more what they were."""
    return ", ".join(name for name, digest in before.items() if after.get(name) != digest)
