"""Names: short ones of datasets, for run directories and tables, and those of columns."""

import re
from glob import has_magic
from pathlib import Path

from reverie.mistake import Mistake

UNIT = re.compile(r"\s*[\[(]([^\[\]()]*)[\])]\s*$")
"""The unit behind a name."""
_NEXT = re.compile(r"next[_. ].+|.+[_. ]next|.+[_. \[(][tk] ?\+ ?1[\])]?", re.I)


def bare(name: str) -> str:
    """A name without its unit: `level` for `level [cm]` and `level (cm)`."""
    return UNIT.sub("", name) or name


def is_next(name: str) -> bool:
    """Whether a name says so of the next row's values: `level_next`, `next.level`, `level(t+1)`."""
    return any(_NEXT.fullmatch(each) for each in (name, bare(name)))


def short_name(
    *,
    name: str | None = None,
    id: str | None = None,
    path: str | None = None,
    env_id: str | None = None,
    **_: object,
) -> str:
    """The name that a dataset's options say or imply.

    Takes all options of a dataset, so that the name is known before anything is loaded: `name` if
    given, else the id (without a remote) with dashes for slashes, else the stem of the
    file or folder, else the environment's id.

    Raises:
        Mistake: none of the four is given.
    """
    if name:
        return name
    if id:
        return local_id(id).replace("/", "-")
    if path:
        return _name_of_path(path)
    if env_id:
        return env_id.replace("/", "-").replace(":", "-")
    if path is not None:
        raise Mistake("dataset.path is empty; give the file, dataset.path=FILE")
    raise Mistake("a dataset has no name, id or path; give dataset.name=...")


def _name_of_path(path: str) -> str:
    """The stem of a file or a folder, what is fixed in it of a pattern, or the folder's above."""
    place = Path(path)
    if not has_magic(path) or place.exists():
        named = place if place.stem not in ("", "..") else place.resolve()
        return named.stem or "table"
    parts = [place.stem, *reversed(place.absolute().parts[:-1])]
    fixed = (re.sub(r"\[[^]]*\]|[*?]", "", part).strip(" ._-/") for part in parts)
    return next(filter(None, fixed), "table")


def local_id(id: str) -> str:
    """A Minari id without the remote that may precede it, as in `hf://farama-minari/a/b-v0`."""
    return id.partition("://")[2].partition("/")[2] if "://" in id else id
