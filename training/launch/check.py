"""Look at a dataset before trusting it: `python -m datasets.check dataset=... [dataset.key=value]`.

Prints what is in it, and ends with status 1 and a line for each thing that would poison training.
Takes the dataset options of `train.py`, and `inverse_model=...`, which keeps rows that lack an
action. Installed, it is `reverie check dataset=...`.
"""

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from rich.console import Console

from reverie.datasets import recording
from reverie.datasets.check.figures import draw
from reverie.datasets.check.report import MADE_BY, as_json, report
from reverie.datasets.check.text import show
from reverie.datasets.dataset import Dataset
from reverie.datasets.readers import builtin
from reverie.datasets.readers.columns import ARROW_FILES, TEXT_FILES
from reverie.mistake import Mistake, writing
from reverie.paths import expanded, unquote
from reverie.temporary import replacing
from reverie.text import counted
from reverie.training.fitting import INVERSE
from reverie.training.launch.data import load_dataset
from reverie.training.launch.hyperparameters import compose_run
from reverie.training.launch.options import as_typed

STDOUT = "-"
"""In the place of a file for JSON."""
OWN = {"dataset=file", "dataset=table", "dataset=minari"}
"""Options that read files of a user's own, who may not know yet what to train."""
FIRST = "td3_bc,mopo"
_EXAMPLE = "python -m reverie.datasets.check dataset=file dataset.path=my.hdf5"


def main() -> None:
    """End the process with the status of `check`, of what was typed."""
    shown = logging.StreamHandler()
    shown.setFormatter(_Formatter())
    logging.basicConfig(level=logging.WARNING, handlers=[shown])
    for module in (builtin, recording):  # whose work takes a while
        module.log.setLevel(logging.INFO)
    sys.exit(check(sys.argv[1:]))


class _Formatter(logging.Formatter):
    """Marks what is a warning."""

    def format(self, record: logging.LogRecord) -> str:
        mark = "warning: " if record.levelno >= logging.WARNING else ""
        return mark + super().format(record)


def check(arguments: Sequence[str]) -> int:
    """Check the dataset that the overrides choose; returns the exit status.

    Raises:
        Mistake: an option or a setting that is not there, a file that is no report, or the dataset
            is refused.
        hydra.errors.HydraException: the overrides cannot be composed.
    """
    parser = _parser()
    if not arguments:
        parser.print_help()
        return 2
    chosen = parser.parse_args(arguments)
    picture = None if chosen.plot is None else _to_write(chosen.plot, ".png")
    table = None if chosen.json in (None, STDOUT) else _to_write(chosen.json, ".json")
    overrides = [*only_data(chosen.overrides), *_searched(chosen.config_dir)]
    # What an environment prints would stand among the JSON.
    with redirect_stdout(sys.stderr) if chosen.json == STDOUT else nullcontext():
        loaded = load_dataset(compose_run(overrides), infer=False)
    data = loaded.recorded
    found = report(data)
    if chosen.json == STDOUT:
        print(as_json(data, found), end="")
    else:
        console = Console(markup=False, emoji=False)
        show(data, found, console)
        if loaded is not data:
            console.print(_transformed(loaded), highlight=False, soft_wrap=True)
        if not found.problems and OWN & set(overrides):
            console.print(_next(chosen, loaded), highlight=False, soft_wrap=True)
    if picture is not None:
        _write(picture, draw(data))
    if table is not None:
        _write(table, as_json(data, found).encode())
    return 1 if found.problems else 0


def _next(chosen: argparse.Namespace, data: Dataset) -> str:
    """What somebody would type who has read docs/choosing.md."""
    folder = [] if chosen.config_dir is None else [f"--config-dir={chosen.config_dir}"]
    asked = any(each.startswith(f"{INVERSE}=") for each in chosen.overrides)
    # Rows without an action were kept, and training refuses them unless something fills them in.
    filled = [f"{INVERSE}=ensemble"] if data.action_missing is not None and not asked else []
    overrides = [*map(unquote, map(as_typed, chosen.overrides)), *filled]
    typed = shlex.join(["-m", *folder, f"algorithm={FIRST}", *overrides])
    return (
        "next: two methods that fail in different ways, and a page about both "
        f"(docs/choosing.md has others)\n  python train.py {typed}\n  "
        "python -m training.report runs"
    )


def _transformed(data: Dataset) -> str:
    """What was made of the recorded rows."""
    spec, made = data.spec, []
    if spec.hidden:
        made.append(f"without {counted(len(spec.hidden), 'column')}")
    if spec.has_history:
        actions = counted(spec.stacked_actions, "action")
        made.append(f"as histories of {counted(spec.stacked_obs, 'observation')} and {actions}")
    if spec.chunk > 1:
        made.append(f"as chunks of {counted(spec.chunk, 'control step')}")
    seen = f"observations of size {spec.obs_dim}, " if spec.hidden or spec.has_history else ""
    return (
        f"{', '.join(made)}: {counted(len(data), 'row')}, {seen}actions of size {spec.action_dim}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m datasets.check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="dataset=... dataset.key=value",
        help="as for train.py; conf/dataset/*.yaml lists them",
    )
    parser.add_argument(
        "--plot", metavar="FILE.png", help="draw columns, returns, lengths and an episode"
    )
    parser.add_argument("--json", metavar="FILE.json", help="write everything as JSON; - prints it")
    parser.add_argument(
        "--config-dir", "-cd", metavar="DIR", help="folder with options of your own, as of train.py"
    )
    return parser


def _searched(folder: str | None) -> list[str]:
    """What makes Hydra look for options in one more folder."""
    if folder is None:
        return []
    path = expanded(folder).absolute()
    if not path.is_dir():
        raise Mistake(f"--config-dir={folder} is no folder; give the one above dataset/")
    quoted = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return [f"hydra.searchpath=['file://{quoted}']"]


def only_data(overrides: Sequence[str]) -> Sequence[str]:
    """The overrides, if they choose one dataset and nothing that does not change its rows."""
    keys = [each.partition("=")[0].lstrip("+~") for each in overrides]
    foreign = [
        each
        for key, each in zip(keys, overrides, strict=True)
        if key.partition(".")[0] not in ("dataset", INVERSE)
    ]
    if len(foreign) == 1 and len(keys) == 1 and Path(foreign[0]).is_dir():
        raise Mistake(
            f"{foreign[0]} is a folder; if it holds tables, say so: "
            f"dataset=table dataset.path={shlex.quote(foreign[0])}"
        )
    if len(foreign) == 1 and len(keys) == 1 and Path(foreign[0]).is_file():
        kind = "table" if Path(foreign[0]).suffix.lower() in (*TEXT_FILES, *ARROW_FILES) else "file"
        raise Mistake(
            f"{foreign[0]} is a file; say how to read it: "
            f"dataset={kind} dataset.path={shlex.quote(foreign[0])}"
        )
    if foreign or keys.count("dataset") != 1:
        raise Mistake(
            f"expected dataset=... and dataset.key=value only (and {INVERSE}=...), found "
            f"{' '.join(overrides)!r}; e.g. {_EXAMPLE}"
        )
    for each in OverridesParser.create().parse_overrides(list(overrides)):
        if each.is_sweep_override():
            raise Mistake(
                f"{each.input_line} is a sweep, and check looks at one dataset at a time; give one "
                f"value (a comma in a name needs quotes: '{each.get_key_element()}=\"a,b\"')"
            )
    return overrides


def _to_write(name: str, suffix: str) -> Path:
    """The path of a file that may be written: a new one, or one that this command made."""
    path = Path(name)
    if path.suffix.lower() != suffix:
        raise Mistake(f"{path} has the suffix {path.suffix!r}, expected {suffix}; add it")
    if path.exists() and not (path.is_file() and MADE_BY.encode() in path.read_bytes()[:4096]):
        raise Mistake(f"{path} was not written by check and stays as it is; give another name")
    return path


def _write(path: Path, contents: bytes) -> None:
    with writing(path), replacing(path) as temporary:
        temporary.write_bytes(contents)
