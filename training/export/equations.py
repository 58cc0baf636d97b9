"""`format=equations`: the policy that `training.distil` made of a run, in words and numbers."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.training.distil.sparse_policy import SparsePolicy
from reverie.training.export.columns import in_comment, in_latex
from reverie.training.export.controller import Act, Controller, Measured, measured
from reverie.training.export.numpy_files import load
from reverie.training.files import write_text
from reverie.training.stored import damaged, read_record

DISTILLED = "sparse_policy.json"
_FACTOR = re.compile(r"x(\d{1,6})(?:\^(\d{1,3}))?", re.ASCII)


def read(run_dir: Path, spec: Spec, seeds: int) -> tuple[SparsePolicy, dict[str, Any]]:
    """The distilled policies of a run, and what was found when they were scored.

    Raises:
        Mistake: the run was not distilled, or the file is not one of this run.
    """
    path = run_dir / DISTILLED
    if not path.is_file():
        raise Mistake(
            f"{run_dir} was not distilled, so there are no equations; run "
            f"python -m training.distil run={run_dir} first, or choose another format"
        )
    remedy = f"make it again: python -m training.distil run={run_dir}"
    record = read_record(path, remedy)
    try:
        coefficients, powers = _table(record.get("terms"), spec, seeds)
    except ValueError as error:
        raise damaged(path, error, remedy) from error
    known: dict[str, Any] = {key: record[key] for key in ("returns", "chosen") if key in record}
    return SparsePolicy(spec, powers, coefficients), known


def _table(terms: Any, spec: Spec, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients `[S, A, F]` and exponents `[F, D]` of terms by name."""
    if not isinstance(terms, list) or len(terms) != seeds:
        raise ValueError(f"it does not hold terms of {seeds} seeds")
    rows: dict[tuple[int, ...], int] = {}
    found: list[tuple[int, int, int, float]] = []
    for seed, own in enumerate(terms):
        if not isinstance(own, list) or len(own) != spec.action_dim:
            raise ValueError(f"seed {seed} does not have terms of {spec.action_dim} actions")
        for action, each in enumerate(own):
            if not isinstance(each, dict):
                raise ValueError(f"the terms of seed {seed} are not named")
            for name, value in each.items():
                if not isinstance(value, int | float) or isinstance(value, bool):
                    raise ValueError(f"the coefficient of {name!r} is no number")
                row = rows.setdefault(_exponents(name, spec.obs_dim), len(rows))
                found.append((seed, action, row, float(value)))
    coefficients = np.zeros((seeds, spec.action_dim, len(rows)))
    for *place, value in found:
        coefficients[tuple(place)] = value
    return coefficients, np.array(list(rows), int).reshape(len(rows), spec.obs_dim)


def _exponents(name: str, obs_dim: int) -> tuple[int, ...]:
    powers = [0] * obs_dim
    for factor in name.split(" ") if name != "1" else ():
        found = _FACTOR.fullmatch(factor)
        if found is None or int(found[1]) >= obs_dim:
            raise ValueError(f"the term {name!r} is no product of its {obs_dim} observations")
        powers[int(found[1])] += int(found[2] or 1)
    return tuple(powers)


def act(policy: SparsePolicy, seed: int) -> Act:
    """One seed's actions `[N, A]` in [-1, 1] for `obs [N, D]`."""
    own = SparsePolicy(policy.spec, policy.powers, policy.coefficients[seed : seed + 1])
    return lambda obs: own.act(obs.double().unsqueeze(0))[0]


def export(
    policy: SparsePolicy, seed: int, controller: Controller, folder: Path, decisions: int
) -> Measured:
    """Write policy.py, policy.txt and policy.tex, and ask the first."""
    spec = policy.spec
    write_text(folder / "policy.py", policy.python(seed))
    write_text(folder / "policy.txt", text(policy, seed))
    write_text(folder / "policy.tex", latex(policy, seed))
    decide = load(folder / "policy.py", "act")

    def rows(obs: np.ndarray) -> np.ndarray:
        return np.array([decide(row) for row in obs.tolist()]).reshape(-1, spec.action_dim)

    return measured(rows, controller, decisions)


def text(policy: SparsePolicy, seed: int) -> str:
    """One line an action, then what the letters are."""
    spec = policy.spec
    lines = [
        f"u{action} = {middle:.9g} + {half:.9g} tanh({' '.join(terms) or '0'})"
        for action, middle, half, terms in _lines(policy, seed, lambda i, n: f"x{i}" + _power(n))
    ]
    lines += ["", *(f"x{i}: {in_comment(label)}" for i, label in enumerate(spec.scaled_labels))]
    lines += [f"u{i}: {in_comment(label)}" for i, label in enumerate(spec.action_labels)]
    lines += filter(None, [spec.how_to_play, spec.how_to_see])
    return "\n".join(lines) + "\n"


def latex(policy: SparsePolicy, seed: int) -> str:
    """Equations for `amsmath`, then what the letters are."""
    spec = policy.spec
    equations = [
        f"  u_{{{action}}} &= {_scientific(middle)} + {_scientific(half)} \\tanh\\left("
        f"{' '.join(terms) or '0'}\\right)"
        for action, middle, half, terms in _lines(
            policy, seed, lambda i, n: f"x_{{{i}}}" + (f"^{{{n}}}" if n > 1 else ""), _scientific
        )
    ]
    items = [
        *(f"  \\item $x_{{{i}}}$: {in_latex(label)}" for i, label in enumerate(spec.scaled_labels)),
        *(f"  \\item $u_{{{i}}}$: {in_latex(label)}" for i, label in enumerate(spec.action_labels)),
        *(f"  \\item {sentence}" for sentence in filter(None, [spec.how_to_play, spec.how_to_see])),
    ]
    body = " \\\\\n".join(equations)
    legend = "\n".join(items)
    return (
        f"\\begin{{align}}\n{body}\n\\end{{align}}\n"
        f"\\begin{{itemize}}\n{legend}\n\\end{{itemize}}\n"
    )


def _power(exponent: int) -> str:
    return f"^{exponent}" if exponent > 1 else ""


def _scientific(value: float) -> str:
    mantissa, _, exponent = f"{value:.9g}".partition("e")
    return mantissa + (f" \\cdot 10^{{{int(exponent)}}}" if exponent else "")


def _lines(
    policy: SparsePolicy,
    seed: int,
    factor: Callable[[int, int], str],
    number: Callable[[float], str] = "{:.9g}".format,
) -> list[tuple[int, float, float, list[str]]]:
    """Index, middle, half width and signed terms of every action."""
    spec = policy.spec
    found = []
    for action, row in enumerate(policy.coefficients[seed]):
        low, high = spec.action_low[action], spec.action_high[action]
        terms = []
        for index in np.flatnonzero(row):
            factors = [factor(i, int(n)) for i, n in enumerate(policy.powers[index]) if n]
            sign = "-" if row[index] < 0 else "+"
            terms.append(" ".join([f"{sign} {number(abs(float(row[index])))}", *factors]))
        found.append((action, (low + high) / 2, (high - low) / 2, terms))
    return found
