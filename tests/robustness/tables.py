"""Tables that are damaged, and what somebody types to have them read."""

import csv
import io
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from reverie.datasets.tables.table import LONGEST_NAME
from reverie.text import one_line
from tests.robustness import mutations, sandbox
from tests.robustness.judging import RIGHT, Attempt, judge_refusal, require
from tests.robustness.mutations import Random
from tests.robustness.runs import write_log

NAMED = (
    "dataset.columns.observations=[level,flow]",
    *("dataset.columns.episode=episode", "dataset.columns.time=time"),
)
CELLS = (
    *("", "NA", "nan", "inf", "-1e308", "1e400", "9" * 400, "0x10", "1_000", "1,5", "abc", "True"),
    *('"', '""', '"a', 'a"b', "\t", ";", "\x00", "\r", "\n", "\ufeff", "1.5.2", "--1", "1e", " 7 "),
    *(
        "2026-01-31",
        "=1+1",
        "\N{MINUS SIGN}1",
        "\N{ARABIC-INDIC DIGIT ONE}",
        "\x1b[31m",
        "x" * 9999,
    ),
)
STORED = (
    *("int8", "float16", "float32", "uint64", "bool", "str", "category", "datetime64[ns]"),
    *("timedelta64[ns]", "Int64", "complex64", "list", "dict", "bytes", "decimal", "mixed"),
)


class Table:
    """A log of somebody's own, as `dataset=table` reads it."""

    def __init__(self, suffix: str) -> None:
        self.name = f"log{suffix}"

    def prepare(self, folder: Path) -> None:
        """Write the log."""
        write_log(folder / "log.csv")
        if self.name != "log.csv":
            pandas.read_csv(folder / "log.csv").to_parquet(
                folder / self.name, write_page_checksum=True
            )  # without checksums other numbers are read as they stand

    def attempt(self, rng: Random, whole: Path, folder: Path) -> Attempt:
        """Damage its bytes, its cells or its columns, and check it."""
        path = folder / self.name
        shutil.copy(whole / self.name, path)
        if rng.random() < 0.5:
            how = mutations.damage(rng, path)
        elif path.suffix == ".csv":
            how = _change_cells(rng, path)
        else:
            how = _change_columns(rng, path)
        named = NAMED if rng.random() < 0.5 else ()
        how += ", columns named" if named else ", columns guessed"
        options = ["dataset=table", f"dataset.path={path}", "dataset.columns.actions=[valve]"]
        options += named
        outcome = sandbox.run(["-m", "reverie.datasets.check", *options], folder)
        if "Warning" in outcome.stderr:
            return Attempt(how, "warns of Python's own", outcome)
        verdict = judge_refusal(outcome, path.name, may_warn=True)
        if verdict == RIGHT:
            loaded = sandbox.run([], folder, then=partial(_compare, path, bool(named)))
            verdict = loaded.fault() or (loaded.stdout.strip() or "says nothing")
        return Attempt(how, verdict, outcome)


def _change_cells(rng: Random, path: Path) -> str:
    """Put something else into a cell, lose one, or have one more, in one line or in a few."""
    lines = path.read_text().splitlines()
    way = str(rng.choice(["other", "other", "lost", "more"]))
    first = int(rng.integers(len(lines)))
    for number in range(first, min(len(lines), first + int(rng.choice([1, 1, 5, 200])))):
        cells = lines[number].split(",")
        at = int(rng.integers(len(cells)))
        if way == "lost":
            del cells[at]
        elif way == "more":
            cells.insert(at, str(rng.choice(CELLS)))
        else:
            cells[at] = CELLS[int(rng.integers(len(CELLS)))]
        lines[number] = ",".join(cells)
    path.write_text("\n".join(lines) + "\n", newline="")
    return f"a cell {way} from line {first + 1}"


def _change_columns(rng: Random, path: Path) -> str:
    """Store a column as another type, under another name, or as the index."""
    frame = pandas.read_parquet(path)
    name = str(rng.choice(frame.columns))
    way = str(rng.choice([*STORED, "rename", "drop", "index", "twice"]))
    try:
        if way == "rename":
            frame = frame.rename(columns={name: str(rng.choice(CELLS))})
        elif way == "drop":
            frame = frame.drop(columns=name)
        elif way == "index":
            frame = frame.set_index(name)
        elif way == "twice":
            frame[f"{name} "] = frame[name]
        else:
            frame[name] = _stored_as(frame[name], way)
        frame.to_parquet(path)
    except (TypeError, ValueError, NotImplementedError):  # which pandas or Arrow cannot store
        return f"{name} as {way} (impossible)"
    return f"{name} as {way}"


def _stored_as(column: pandas.Series, kind: str) -> Any:
    from decimal import Decimal

    convert = {
        "list": lambda value: [value],
        "dict": lambda value: {"a": value},
        "bytes": lambda value: str(value).encode(),
        "decimal": lambda value: Decimal(f"{value:.3f}"),
    }
    if kind in convert:
        return column.map(convert[kind]).astype(object)
    if kind == "mixed":
        return column.astype(str).where(column.index != 7, "abc")
    whole = column.round() if kind in ("int8", "uint64", "Int64", "bool") else column
    return whole.astype(kind)


def _compare(path: Path, named: bool) -> None:
    """Print `RIGHT` if all that was read stands in one row of the file, by another reader."""
    from reverie import datasets

    columns = {"actions": ["valve"]} | ({"observations": ["level", "flow"]} if named else {})
    data = datasets.load("table", path=str(path), columns=columns)
    names = (*data.spec.obs_names, *data.spec.action_names, data.origin["reward"])
    rows = data.transitions
    low, high = (np.array(getattr(data.spec, f"action_{end}")) for end in ("low", "high"))
    action = (low + high) / 2 + (high - low) / 2 * rows.action.double().numpy()
    read = np.column_stack([rows.obs.numpy(), action, rows.reward.numpy()])
    stored = _stored(path, names)
    if isinstance(stored, str):
        print(stored)
        return
    # Rows may be left out and put together by episodes, but none is made of two.
    width = rows.obs.shape[1]
    slack = np.full(read.shape[1], 1e-6)
    slack[width:-1] *= high - low  # actions are kept as shares of their box
    alien = sum(not _is_among(row, stored, slack) for row in read)
    followers = stored[:, :width], slack[:width]
    alien += sum(not _is_among(row, *followers) for row in rows.next_obs.double().numpy())
    print(f"{alien} rows were read that are not there" if alien else RIGHT)


def _is_among(row: np.ndarray, known: np.ndarray, slack: np.ndarray) -> bool:
    return bool((np.abs(known - row) <= slack + 1e-5 * np.abs(row)).all(1).any())


def _stored(path: Path, names: tuple[str, ...]) -> Any:
    """`[N, W]` numbers of some columns of a file, or a fault."""
    if path.suffix == ".parquet":
        from pyarrow import parquet

        table = parquet.ParquetFile(path).read()
        found = {one_line(name, LONGEST_NAME): table[name] for name in table.column_names}
        return np.array([_numbers(found[name]) for name in names]).T
    text = _decoded(path.read_bytes())
    head, *lines = [line for line in csv.reader(io.StringIO(text, newline="")) if line]
    if len({len(line) for line in lines}) > 1 or "\0" in text:
        return "lines of other lengths were read"
    head = [one_line(name, LONGEST_NAME) for name in head]
    places = [head.index(name) for name in names]
    return np.array([[_number(line[place]) for place in places] for line in lines])


def _decoded(data: bytes) -> str:
    for codec in ("utf-32", "utf-16") if data[:1] in (b"\xff", b"\xfe", b"\0") else ():
        try:
            return data.decode(codec)
        except UnicodeError:
            continue
    try:
        return data.decode("utf-8-sig")
    except UnicodeError:
        return data.decode("cp1252", errors="replace")


def _numbers(column: Any) -> list[float]:
    if str(column.type).startswith("duration"):  # which is read in seconds
        return (column.to_pandas() / pandas.Timedelta(seconds=1)).tolist()
    return [_number(each) for each in column.to_pylist()]


def _number(cell: Any) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


class Formulas:
    """What is typed for `dataset.reward` and `dataset.columns`."""

    parts = (
        *("level", "flow", "`level [cm]`", "next.level", "next.", "episode", "valve", "nothing"),
        *("1", "0", "1e400", "9**9**9", "-", "+", "*", "/", "**", "//", "%", "(", ")", "()", ","),
        *("abs(level)", "where(flow>0,1,2)", "max(level)", "log(-1)", "<", "==", "[0]", ".real"),
        *("`", "#", "lambda: 1", "__import__('os')", "if", "else", "\\\\", "\N{MICRO SIGN}", "1j"),
        *("(" * 200, "-" * 300, "level+" * 60, "'a'", "_quoted_0_", "\N{SUPERSCRIPT TWO}", ":="),
    )
    roles = ("observations", "actions", "reward", "terminated", "truncated", "episode", "time", "x")
    names = (
        *(
            "level",
            "flow",
            "valve",
            "time",
            "episode",
            "reward",
            "'l*'",
            "'*'",
            "'?'",
            "[]",
            "null",
        ),
        *("[level,flow]", "[level,level]", "[[level]]", "{a: b}", "1", "true", "'[cm]'", "''"),
        *("'level [cm]'", "[valve,flow]", "'*a*e*i*'", "nothing", "???", "[null]", "1e400"),
    )

    def prepare(self, folder: Path) -> None:
        """Write the log."""
        write_log(folder / "log.csv")
        require(sandbox.run(self._check(folder, "valve", []), folder))

    def attempt(self, rng: Random, whole: Path, folder: Path) -> Attempt:
        """Type a formula, names, or both."""
        typed = []
        if rng.random() < 0.6:
            formula = " ".join(rng.choice(self.parts, int(rng.integers(1, 6))))
            typed.append('dataset.reward="' + formula.replace('"', "") + '"')
        for _ in range(int(rng.integers(0 if typed else 1, 3))):
            key = f"dataset.columns.{rng.choice(self.roles)}"
            typed.append(f"{key}={rng.choice(self.names)}")
        outcome = sandbox.run(self._check(whole, "valve", typed), folder)
        named = ("log.csv", "dataset.", "columns.")
        return Attempt(" ".join(typed), judge_refusal(outcome, *named, may_warn=True), outcome)

    def _check(self, whole: Path, action: str, typed: list[str]) -> list[str]:
        given = [] if any(".actions=" in each for each in typed) else [action]
        actions = [f"dataset.columns.actions={each}" for each in given]
        table = ["dataset=table", f"dataset.path={whole / 'log.csv'}"]
        return ["-m", "reverie.datasets.check", *table, *actions, *typed]
