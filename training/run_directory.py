"""The directory of a run: its path, the files we own there, and what must not be mixed."""

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from reverie.datasets.names import short_name
from reverie.datasets.options import BENCHMARKS
from reverie.mistake import Mistake, writing
from reverie.paths import given_folder, given_name
from reverie.temporary import is_gone, remove_abandoned, temporary_of
from reverie.training.files import LOCK, holds, lock_directory, write_text
from reverie.training.fitting import FITTED
from reverie.training.stored import read_settings

CONFIG, SUMMARY, METRICS = "config.yaml", "summary.json", "metrics.csv"
FAILED = "failed.json"
EXECUTION = "execution.json"
"""How many threads a run began with, and whether it is compiled."""
MARKER = ".reverie-run"
"""File by which a folder is known as a run directory of ours, from its first moment to its last."""
_EXPLAINED = (
    "A run directory of Reverie. overwrite=true deletes the files of the run, and refuses to where "
    "the folder holds any other file.\n"
)

FILES = (
    *(CONFIG, SUMMARY, METRICS, FAILED, EXECUTION, "checkpoint.pt"),
    *(f"{group}.{end}" for group in FITTED for end in ("pt", "json", "png")),
    *("dreams.json", "dreams.png", "selection.json", "selection.png"),
    *("curves.png", "values.png", "lipschitz.png"),
    *("evaluation.json", "planning.json", "off_policy_evaluation.json"),
    "off_policy_evaluation-*.json",
    *(f"{name}-seed[0-9]*.mp4" for name in ("video", "planned", "imagined")),
    *("sparse_policy.json", "sparse_policy_[0-9]*.py", "sparse_policy_[0-9]*.c"),
    *("snapshots/[0-9]*.pt", "tensorboard/events.out.tfevents.*", "wandb-id.txt"),
    "export/*/__pycache__/*.pyc",
    *(f"export/*/{name}" for name in ("manifest.json", "policy.*", "policy_test.c", "*.onnx")),
    *("wandb/run-*", "wandb/offline-run-*", "wandb/latest-run", "wandb/debug*"),
)
"""All that any command writes into a run directory, as patterns of paths below it; what they match
belongs to the run and goes with it."""

# Settings that change how a run is carried out or shown, but not what it computes. They are not
# compared when a run is resumed, and do not become part of its directory's name.
CARRIED_OUT = (
    "device",
    "compile",
    "threads",
    "root",
    "run_dir",
    "overwrite",
    "retry_failed",
    "cache",
    "checkpoint_every",
    "logger",
)
# Settings that have a level of the directory to themselves, or are part of the dataset's name.
NAMED = (
    *("name", "algorithm", "seed", "env_id"),
    *("dataset", "dataset.name", "dataset.id", "dataset.path"),
)
LONGEST_NAME = 100
# What stands in a directory's name as it was typed, but for a dash in the place of the sign of
# equality: keys without dashes, and values of which any command line takes every character.
_PLAIN = re.compile(r"\+{0,2}[A-Za-z_][\w.]*=[\w.-]+", re.ASCII)


def run_directory(config: Mapping[str, Any], overrides: Sequence[str]) -> Path:
    """root/name/dataset[/changes]/seed: the configuration decides, never the clock.

    Different settings have different directories. Where the path does not tell all that was typed,
    `changes` ends in `@` and a digest of it.

    Args:
        config: the composed settings.
        overrides: what was typed, as `key=value`; those that change results become `changes`.

    Raises:
        Mistake: `run_dir` or `root` is empty.
    """
    if config["run_dir"] is not None:
        return given_folder("run_dir", config["run_dir"])
    dataset = short_name(**config["dataset"])
    typed = [(_key(each), each.lstrip("+")) for each in overrides]
    typed = [each for each in typed if each[0].split(".")[0] not in (*CARRIED_OUT, "seed")]
    keys = [key for key, _ in typed]
    # Of two that set the same, the last one counts; elsewhere their order says nothing.
    overlap = any(
        f"{a}.".startswith(f"{b}.") and a not in NAMED
        for i, a in enumerate(keys)
        for j, b in enumerate(keys)
        if i != j
    ) or len(set(keys)) < len(keys)
    if not overlap:
        typed = sorted(typed)
    readable = [re.sub(r"[^\w.-]+", "-", each) for key, each in typed if key not in NAMED]
    variant = "+".join(readable)
    told = all(_is_told(key, each, config, dataset) for key, each in typed)
    if overlap or not told or len(variant) > LONGEST_NAME:
        # An interpolation counts as what it became.
        known = [(each, _value(config, key) if "$" in each else None) for key, each in typed]
        text = json.dumps(known, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        variant = f"{variant[: LONGEST_NAME - 13].rstrip('-')}@{digest}"
    root = given_folder("root", config["root"])
    names = given_name("name", config["name"]), given_name("dataset.name", dataset)
    return Path(root, *names, variant, str(config["seed"]))


def _key(override: str) -> str:
    return override.split("=", 1)[0].lstrip("+~")


def _is_told(key: str, override: str, config: Mapping[str, Any], dataset: str) -> bool:
    """Whether the path says this override, and no other could be read from it."""
    value = override.partition("=")[2]
    if key == "algorithm":
        return value == config["name"]
    if key == "dataset":
        return value in {f"{folder}/{dataset}" for folder in ("builtin", *BENCHMARKS)}
    if key == "env_id":
        return value == dataset
    return key not in NAMED and _PLAIN.fullmatch(override) is not None


def _value(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


@contextmanager
def claimed(run_dir: Path, overwrite: bool = False) -> Iterator[None]:
    """Work in a run directory: locked, marked as ours, and gone again if the block keeps nothing.

    Args:
        run_dir: new, empty, or a run directory of ours.
        overwrite: start over where it holds a run.

    Raises:
        Mistake: it is no place for a run or holds files that are not ours, see `require_ours` and
            `start_over`; another process works in it.
    """
    if holds(run_dir):  # by a block around this one
        yield
        return
    require_ours(run_dir)
    if not overwrite:  # which writes to new files
        _require_no_links(run_dir)
    _settle_overwriting(run_dir)
    absent = [path for path in (run_dir, *run_dir.parents) if not path.exists()]
    with ExitStack() as undone:
        undone.callback(_remove_empty, absent)
        if not _lock(undone, run_dir, overwrite):
            yield
            return
        for folder in (run_dir, run_dir / "snapshots"):
            remove_abandoned(folder)
        if overwrite and not is_empty(run_dir):
            start_over(run_dir)
        elif not (run_dir / MARKER).is_file():
            write_text(run_dir / MARKER, _EXPLAINED)
        try:
            yield
        finally:
            if is_empty(run_dir):
                for name in (EXECUTION, MARKER):
                    (run_dir / name).unlink(missing_ok=True)


def _lock(undone: ExitStack, run_dir: Path, overwrite: bool) -> bool:
    """Lock a directory until `undone`; False for a finished run where nothing can be written."""
    try:
        undone.enter_context(lock_directory(run_dir))
    except Mistake as error:
        if overwrite or not is_read_only(error) or not (run_dir / SUMMARY).is_file():
            raise
        return False
    return True


def is_read_only(error: Mistake) -> bool:
    """Whether something was not written because its folder or disk may only be read."""
    reason = error.__cause__
    return isinstance(reason, OSError) and reason.errno in (errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def unless_read_only(tell: Callable[[str], None]) -> Iterator[None]:
    """Let a run on a disk that may only be read be looked at: what is not written is told.

    Args:
        tell: is given the line.
    """
    try:
        yield
    except Mistake as error:
        if not is_read_only(error):
            raise
        tell(f"not kept: {error}")


def _remove_empty(folders: Sequence[Path]) -> None:
    with suppress(OSError):  # one that is not empty
        for path in folders:
            path.rmdir()


def _require_no_links(run_dir: Path) -> None:
    """Refuse a run directory that would let what is added to its files land elsewhere."""
    for name in (METRICS, "snapshots", "tensorboard", "wandb"):
        if (run_dir / name).is_symlink():
            raise Mistake(
                f"{run_dir / name} is a link, so the run would write elsewhere; put the file "
                "itself there, or give another run_dir"
            )


def is_empty(run_dir: Path) -> bool:
    """Whether a run directory holds nothing but what claims it and says how it would be filled."""
    return not [path for path in run_dir.iterdir() if not _claims(path) and path.name != EXECUTION]


def require_ours(run_dir: Path) -> None:
    """Refuse a folder that is no run directory of ours and cannot become one.

    Raises:
        Mistake: it is the working folder, a home folder, that of this program, or above one of
            them; it holds files and no marker.
    """
    place = run_dir.resolve()
    home = os.path.expanduser("~")  # stays as it is where nobody knows it
    code = Path(__file__).resolve().parent.parent  # the checkout, or the installed package
    for what, folder in (
        ("the working folder", Path.cwd()),
        ("your home folder", Path(home)),
        ("the program's folder", code),
    ):
        if folder.resolve().is_relative_to(place):
            raise Mistake(
                f"run_dir={run_dir} is {what} or holds it, so it cannot be a run directory; give a "
                "folder of its own, such as run_dir=runs/mine"
            )
    if place.exists() and not place.is_dir():
        raise Mistake(f"run_dir={run_dir} is a file; give a folder of its own")
    if not place.is_dir() or (place / MARKER).is_file():
        return
    others = sorted(path.name for path in place.iterdir() if not _claims(path))
    if others:
        raise Mistake(
            f"run_dir={run_dir} holds {others[0]} but no {MARKER}, so it is no run directory and "
            "is left alone; give another run_dir"
        )


def start_over(run_dir: Path) -> None:
    """Put a new run directory in the place of an old one, then delete the old one.

    A kill leaves the old run or the new one, never a mixture. The lock that this process holds
    moves to the new one.

    Raises:
        Mistake: the directory holds a file that is none of `FILES`; a folder cannot be written.
    """
    run_dir = run_dir.resolve()
    for path in _files(run_dir):
        if not _is_ours(path.relative_to(run_dir)):
            raise Mistake(
                f"{path} is no file of a run, so overwrite=true leaves {run_dir} alone; move that "
                "file elsewhere, or give another run_dir"
            )
    old, new = (run_dir.with_name(f".{run_dir.name}.{os.getpid()}.{end}") for end in ("old", "new"))
    with writing(run_dir, "make its folder writable, or choose another run_dir"):
        new.mkdir()
        write_text(new / MARKER, _EXPLAINED)
        os.rename(run_dir, old)
        os.rename(old / LOCK, new / LOCK)
        os.rename(new, run_dir)
        _delete(old)


def _settle_overwriting(run_dir: Path) -> None:
    """Clean up after processes that were killed while they started over here."""
    run_dir = run_dir.resolve()
    if not run_dir.parent.is_dir():
        return
    name = re.compile(rf"\.{re.escape(run_dir.name)}\.(\d{{1,9}})\.(old|new)", re.ASCII)
    with writing(run_dir, "make its folder writable, or choose another run_dir"):
        for path in sorted(run_dir.parent.iterdir(), reverse=True):  # old before new
            found = name.fullmatch(path.name)
            if found is None or not path.is_dir() or not is_gone(int(found[1])):
                continue
            if path.suffix == ".old" and path.with_suffix(".new").exists():
                # Killed before the new directory had its place, so the old run still counts.
                with suppress(OSError):  # where somebody began another
                    os.rename(path, run_dir)
                    continue
            _delete(path)


def _delete(folder: Path) -> None:
    """Delete our files in a folder, the marker last, and the folders that are empty then."""
    if not (folder / MARKER).is_file() and not is_empty(folder):
        return
    files = _files(folder)
    for path in sorted(files, key=lambda path: path == folder / MARKER):
        if _is_ours(path.relative_to(folder)):
            path.unlink(missing_ok=True)
    below = sorted((Path(path) for path, _, _ in os.walk(folder)), reverse=True)
    for path in below:
        with suppress(OSError):  # a file of somebody's came in between
            path.rmdir()


def _files(folder: Path) -> list[Path]:
    """Everything below a folder that is no folder; links are not followed."""
    found = []
    for root, folders, names in os.walk(folder):
        links = [name for name in folders if Path(root, name).is_symlink()]
        found += [Path(root, name) for name in (*names, *links)]
    return sorted(found)


def _is_ours(path: Path) -> bool:
    """Whether a path, as seen from a run directory, matches one of `FILES`."""
    if path.name in (LOCK, MARKER) and len(path.parts) == 1:
        return True
    whole = path.with_name(temporary_of(path.name) or path.name)
    return whole.name == MARKER or any(_matches(whole, pattern) for pattern in FILES)


def _matches(path: Path, pattern: str) -> bool:
    deep = pattern.startswith("wandb/")  # which has folders of its own
    same = len(path.parts) == pattern.count("/") + 1
    return (deep or same) and fnmatchcase(path.as_posix(), pattern)


def _claims(path: Path) -> bool:
    """Whether a file says only that somebody works, or worked, here."""
    return path.name in (LOCK, MARKER) or temporary_of(path.name) is not None


def require_same_settings(run_dir: Path, config: Mapping[str, Any]) -> None:
    """Refuse to go on in a directory that holds a run with other settings.

    Raises:
        Mistake: names the first setting that differs, or the damaged file.
    """
    path = run_dir / CONFIG
    if not path.is_file():
        return
    earlier = read_settings(
        path,
        "restore it, or delete it and run the same command again, which writes it where the "
        "checkpoint knows these settings, or start over with overwrite=true",
    )
    require_same(run_dir, earlier, config)


def require_same(place: Path, earlier: Any, now: Mapping[str, Any]) -> None:
    """Refuse to mix a run that lies somewhere with one of other settings.

    Raises:
        Mistake: names the first setting that differs.
    """
    before, after = flat(earlier), flat(now)
    # Other settings follow from the budget.
    for key in sorted(set(before) | set(after), key=lambda key: (key != "budget", key)):
        if key.split(".")[0] in CARRIED_OUT or before.get(key) == after.get(key):
            continue
        raise Mistake(
            f"{place} holds a run with {key}={before.get(key)}, this one has "
            f"{key}={after.get(key)}; give it another run_dir"
            f"{_extending(place, key, before, after)}, or start over with "
            "overwrite=true"
        )


def _extending(place: Path, key: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What is behind another run directory where a run is to become longer."""
    short, long = before.get(key), now.get(key)
    if key != "updates" or type(short) is not int or type(long) is not int:
        return ""
    run_dir = place.parent if place.is_file() else place  # of a checkpoint, or a directory
    longer = short < long and can_be_extended(run_dir, "online._target_" in before)
    return f" (with extend={run_dir} it goes on from there)" if longer else ""


def can_be_extended(run_dir: Path, online: bool) -> bool:
    """Whether `extend=RUN` takes a run: with a checkpoint, and no steps in the environment."""
    return (run_dir / "checkpoint.pt").is_file() and not online


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as {dotted key: value}."""
    if not isinstance(settings, Mapping):
        return {prefix: settings}
    result: dict[str, Any] = {}
    for key, value in settings.items():
        result |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return result
