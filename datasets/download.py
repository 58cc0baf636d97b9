"""Downloads of data files: resumed where they stopped, checked, from several mirrors in turn."""

import hashlib
import json
import logging
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

from filelock import FileLock
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from reverie.mistake import Mistake, writing
from reverie.temporary import replacing

log = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30.0  # without any byte
ATTEMPTS = 5  # for each mirror, as long as each brings some bytes


def fetch(urls: Sequence[str], path: Path, *, sha256: str | None, remedy: str) -> None:
    """Make sure that the file at `path` is there and whole.

    A missing file is downloaded to `path.part`, from the mirrors in turn, and renamed when it is
    complete. An interrupted download goes on where it stopped, if the same server still offers
    the same file. The checksum of a downloaded file is kept in `path.sha256` (readable by
    `sha256sum -c`) and compared whenever the file is used again.

    Args:
        urls: addresses of the same file, in order of preference.
        path: where the file belongs.
        sha256: expected checksum in hex, None where nobody published one.
        remedy: what a user without a connection can do instead; end of the error message.

    Raises:
        Mistake: no mirror delivered the file; the file's checksum is not the expected one; the file
            cannot be written.
    """
    if not path.exists():
        with writing(path, f"free some space there, or {remedy}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):
                if not path.exists():  # another process may have brought it meanwhile
                    _download(urls, path, sha256, remedy)
                    return
    verify(path, sha256)


def verify(path: Path, sha256: str | None) -> None:
    """Compare a file with the expected checksum, or with the one recorded when it was downloaded.

    Raises:
        Mistake: it differs.
    """
    record = _record(path)
    expected = sha256
    if expected is None and record.exists():
        expected = record.read_text(errors="replace").partition(" ")[0]
        if not re.fullmatch("[0-9a-fA-F]{64}", expected):
            raise Mistake(
                f"{record} is damaged; delete it and {path.name} to fetch the file again, or it "
                "alone to use the file as it is"
            )
    if expected is None:
        return
    found = checksum(path)
    if found != expected.lower():
        source = "dataset.sha256" if sha256 else record.name
        correct = "correct dataset.sha256, or " if sha256 else ""
        raise Mistake(
            f"{path} has sha256 {found}, expected {expected} ({source}); it is damaged or another "
            f"version: {correct}move it and {record.name} away to fetch it again"
        )


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(urls: Sequence[str], path: Path, sha256: str | None, remedy: str) -> None:
    part = path.with_name(path.name + ".part")
    reasons = []
    # A started download is worth most at the server that it came from.
    started = _source(part).get("url")
    for url in sorted(urls, key=lambda url: url != started):
        log.info("downloading %s to %s", url, path)
        reason = _try_mirror(url, part)
        if reason is None:
            found = checksum(part)
            if sha256 is None or found == sha256.lower():
                _write_text(_record(path), f"{found}  {path.name}\n")
                os.replace(part, path)
                _forget(part)
                return
            reason = f"sha256 {found}, expected {sha256}"
            _forget(part)
        log.warning("no download from %s: %s", url, reason)
        reasons.append(f"{url} ({reason})")
    raise Mistake(f"cannot download {path.name} from {'; '.join(reasons)}; {remedy}")


def _try_mirror(url: str, part: Path) -> str | None:
    """Fill `part` from one address; the reason if that failed."""
    for _ in range(ATTEMPTS):
        before = _size(part)
        reason = _transfer(url, part)
        if reason is None or _size(part) <= before:
            return reason
    return reason


def _transfer(url: str, part: Path) -> str | None:
    """One request that starts or continues `part`; the reason if it did not complete it."""
    if not url.startswith(("http://", "https://")):
        return "only http:// and https:// addresses are supported"
    source = _source(part)
    offset = _size(part) if source.get("url") == url and source.get("validator") else 0
    request = urllib.request.Request(url, headers={"User-Agent": "reverie"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
        request.add_header("If-Range", source["validator"])  # else the whole file, if it changed
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and offset:  # nothing is left to send, or another file
                range_ = error.headers.get("Content-Range")
                if range_ == f"bytes */{offset}":
                    return None
                _forget(part)
            return f"HTTP {error.code} {error.reason}"
    except (OSError, HTTPException, ValueError) as error:
        return _reason(error)
    with response:
        length = response.headers.get("Content-Length")
        if response.status == 206:
            begun = re.match(r"bytes (\d+)-", response.headers.get("Content-Range") or "")
            if not begun or int(begun[1]) != offset:
                _forget(part)
                return "the server answered another range than the one asked for"
        else:
            offset = 0
        total = None if length is None else offset + int(length)
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        if validator.startswith("W/"):
            validator = ""  # says nothing about single bytes
        _write_text(_about(part), json.dumps({"url": url, "validator": validator}))
        with part.open("ab" if offset else "wb") as file, _progress() as progress:
            task = progress.add_task(part.stem, total=total, completed=offset)
            while True:
                try:
                    chunk = response.read(CHUNK_BYTES)
                except (OSError, HTTPException) as error:
                    return _reason(error)
                if not chunk:
                    break
                file.write(chunk)
                progress.advance(task, len(chunk))
    size = _size(part)
    if total is not None and size != total:
        return f"connection closed after {size:,} of {total:,} bytes"
    return None


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _about(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _source(part: Path) -> dict[str, str]:
    try:
        return dict(json.loads(_about(part).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _forget(part: Path) -> None:
    for path in (part, _about(part)):
        path.unlink(missing_ok=True)


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)


def _reason(error: BaseException) -> str:
    reason = getattr(error, "reason", error)
    return " ".join(str(reason).split()) or type(error).__name__
