"""Paths as people type them on a command line whose grammar would read them otherwise.

Hydra's grammar takes `=`, `~`, `(`, `#`, `,` and more for signs of its own, so that
`dataset.path=run(1).npz` is refused. What is typed for a setting that holds a path is quoted here,
and so is the formula of a reward.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from reverie.mistake import Mistake

NAMES = ("path", "run", "run_dir", "root", "cache", "name", "init", "extend", "output")
"""Last parts of keys whose values are paths, or names that make up paths."""
SWEEPS = ("-m", "--multirun", "hydra.mode=MULTIRUN")
_FORMULA = r"dataset\.reward"  # whose signs are the grammar's too
_PATH = rf"(?:[\w.]+\.)?(?:{'|'.join(NAMES)})"
_ARGUMENT = re.compile(rf"([+~]{{0,2}}(?:{_PATH}|{_FORMULA}))=(.*)", re.DOTALL)
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_INTERPOLATION = re.compile(r"\$\{[^{}]*\}")
_FUNCTION = re.compile(r"(?:choice|glob|range|interval|shuffle|sort|tag|str)\(.*\)", re.DOTALL)
# What the grammar reads as the very same text.
_PLAIN = re.compile(r"[A-Za-z_./*?@%+|\\-](?:[\w ./*?@%+|:$\\-]*[\w./*?@%+|:$\\-])?", re.ASCII)
_WORDS = ("true", "false", "nan", "inf", "null")


def quote_paths(arguments: Sequence[str], sweeps: bool | None = None) -> list[str]:
    """Arguments of which those that hold a path are quoted where they have to be.

    Quotes, interpolations, `glob(...)` and other functions stay as they are typed, and `~` at the
    beginning becomes the home folder.

    Args:
        arguments: as typed.
        sweeps: whether `a,b` are two values and no name with a comma; None where `-m` says it.
    """
    if sweeps is None:
        sweeps = any(each in SWEEPS for each in arguments)
    return [_with_path_quoted(each, sweeps) for each in arguments]


def unquote(argument: str) -> str:
    """An argument without the quotes that `quote_paths` would give it again, in a sweep too."""
    key, _, value = argument.partition("=")
    typed = f"{key}={value[1:-1]}"
    return typed if quote_paths([typed], sweeps=True) == [argument] else argument


def expanded(path: str | Path, instead: str = "") -> Path:
    """A path of which `~` or `~name` in front is the home folder.

    Args:
        path: as typed, or where files lie by default.
        instead: the setting that gives another place, for the message.

    Raises:
        Mistake: that home folder is not known.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        remedy = f"set HOME, or {instead}" if instead else "write out the path, or set HOME"
        raise Mistake(f"the home folder in {path} is not known; {remedy}") from error


def absent_path(path: str) -> str:
    """What to do about a `dataset.path` at which nothing is."""
    if re.match(r"file:/", path):
        return "give the path without file://"
    if re.match(r"[a-z][a-z0-9+]+:/", path):  # of which a path has one slash left
        return "dataset.path is no address: fetch it, and give the file"
    if "," not in path:
        return "correct dataset.path"
    return (
        "dataset.path takes no list: with dataset=table it may be a folder of files, or a "
        "pattern such as logs/*.csv; arrays of several files are joined into one first"
    )


def given_folder(key: str, value: object) -> Path:
    """The folder that a setting names.

    Raises:
        Mistake: the setting is empty, as from a shell variable that is not set (the working folder
            is `.`); a list or a mapping.
    """
    if not isinstance(value, str | int | float | Path):
        raise Mistake(f"{key}={value} must be a folder; quote a name that has brackets or braces")
    if not str(value).strip():
        raise Mistake(f"{key}= is empty; give a folder of its own, or leave {key} out")
    return expanded(str(value))


def given_name(key: str, value: str) -> str:
    """The name of a folder below another one, or of several levels, that a setting gives.

    Raises:
        Mistake: it is empty, begins with `/` or goes up.
    """
    parts = Path(value).parts
    if not parts or Path(value).is_absolute() or ".." in parts:
        raise Mistake(
            f"{key}={value} is no name of a folder below root; give one such as {key}=trial, or "
            "the whole run directory as run_dir=..."
        )
    return value


def quote(text: str) -> str:
    """A text in quotes, as the grammar reads it back."""
    # Of backslashes only those count that stand before a quote, or at the end.
    escaped = re.sub(r"(\\*)('|\Z)", lambda at: at[1] * 2 + ("\\'" if at[2] else ""), text)
    return f"'{escaped}'"


def _with_path_quoted(argument: str, sweeps: bool) -> str:
    found = _ARGUMENT.fullmatch(argument)
    if found is None:
        return argument
    key, value = found.groups()
    values = _split(value) if sweeps else [value]
    return f"{key}={','.join(map(_readable, values))}"


def _readable(value: str) -> str:
    """One value as the grammar reads it."""
    if _QUOTED.fullmatch(value):
        return value[0] + _at_home(value[1:])
    value = _at_home(value)
    if value in ("", "null") or _FUNCTION.fullmatch(value):
        return value
    escaped = re.search(r"\\[=,(){}\[\] :]", value)  # by somebody who knows the grammar
    plain = _PLAIN.fullmatch(_INTERPOLATION.sub("x", value)) and value.lower() not in _WORDS
    return value if escaped or plain else quote(value)


def _at_home(value: str) -> str:
    return os.path.expanduser(value) if value.startswith("~") else value


def _split(value: str) -> Iterator[str]:
    """The values of a sweep: at the commas outside of quotes and brackets."""
    depth, part = 0, ""
    for piece in re.findall(rf"{_QUOTED.pattern}|.", value, re.DOTALL):
        depth += (piece in tuple("([{")) - (piece in tuple(")]}"))
        if piece == "," and depth <= 0:
            yield part
            part = ""
        else:
            part += piece
    yield part
