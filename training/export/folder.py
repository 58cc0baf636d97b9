"""The folder of an export: complete or absent, and never in place of a user's files."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from reverie.mistake import Mistake, writing
from reverie.temporary import is_gone
from reverie.training.stored import read_record

MANIFEST = "manifest.json"
KIND = "reverie-export"
"""What a manifest of ours says of itself."""
_REMEDY = "give another folder with output=..."


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def require_replaceable(folder: Path) -> None:
    """Refuse a folder that holds anything but an earlier export, as it was written.

    Raises:
        Mistake: names the first file that would be lost.
    """
    if not (folder.exists() or folder.is_symlink()):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise Mistake(f"{folder} is no folder of an export; {_REMEDY}")
    with writing(folder, _REMEDY):
        names = sorted(path.name for path in folder.iterdir() if not _is_cache(path))
    if not names:
        return
    if MANIFEST not in names:
        raise Mistake(f"{folder} holds {names[0]} and no export of ours; {_REMEDY}")
    files = _files_of(folder / MANIFEST)
    for name in names:
        path = folder / name
        if name != MANIFEST and name not in files:
            raise Mistake(f"{path} is no file of an export; move it elsewhere, or {_REMEDY}")
        if name != MANIFEST and (not path.is_file() or digest(path) != files[name]):
            raise Mistake(f"{path} is not as it was exported; keep it elsewhere, or {_REMEDY}")


def _is_cache(path: Path) -> bool:
    """Whether Python made it, where somebody imported a file of an export."""
    ours = path.name == "__pycache__" and path.is_dir() and not path.is_symlink()
    return ours and all(each.suffix == ".pyc" for each in path.iterdir())


def _files_of(manifest: Path) -> dict[str, str]:
    if manifest.is_symlink():
        raise Mistake(f"{manifest} is a link and no file of an export; {_REMEDY}")
    found = read_record(manifest, _REMEDY)
    files = found.get("files")
    if found.get("kind") != KIND or not isinstance(files, dict):
        raise Mistake(f"{manifest} is no manifest of an export; {_REMEDY}")
    return {str(name): str(sha) for name, sha in files.items()}


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """An empty folder beside, which takes the place of `folder` when the block succeeds.

    Raises:
        Mistake: see `require_replaceable`; nothing can be written there.
    """
    folder = folder.absolute()
    require_replaceable(folder)
    new, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("new", "old"))
    absent = [path for path in (folder.parent, *folder.parent.parents) if not path.exists()]
    try:
        with writing(folder, _REMEDY):
            folder.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(folder)
            new.mkdir()
        with writing(folder, f"free some disk space, or {_REMEDY}"):
            yield new
        require_replaceable(folder)  # which may have been filled meanwhile
        with writing(folder, _REMEDY):
            if folder.exists():
                os.rename(folder, old)
            try:
                os.rename(new, folder)
            except OSError:
                if old.exists() and not folder.exists():  # the earlier export stays
                    os.rename(old, folder)
                raise
    finally:
        for path in (new, old):
            shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):  # one that is not empty
            for path in absent:
                path.rmdir()


def _remove_abandoned(folder: Path) -> None:
    """Delete what killed exports left; one whose old folder has no new one yet gets it back."""
    name = re.compile(rf"\.{re.escape(folder.name)}\.(\d{{1,9}})\.(new|old)", re.ASCII)
    for path in sorted(folder.parent.iterdir()):
        found = name.fullmatch(path.name)
        if found is None or path.is_symlink() or not is_gone(int(found[1])):
            continue
        if found[2] == "old" and not folder.exists():
            os.rename(path, folder)
        else:
            shutil.rmtree(path)
