"""Downloads from a small server on this machine: resumed, checked, from the next mirror."""

import hashlib
import logging
import os
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from reverie.datasets import download
from reverie.datasets.download import checksum, fetch, verify
from reverie.mistake import Mistake

CONTENT = np.random.default_rng(0).bytes(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
REMEDY = "give it as dataset.path=..."


@dataclass
class Served:
    """What the server sends, and what it was asked for."""

    content: bytes = CONTENT
    tag: str | None = '"one"'
    cut_after: list[int] = field(default_factory=list)  # bytes sent before hanging up, per request
    ranges: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def served(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "CHUNK_BYTES", 1 << 14)
    state = Served()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            state.ranges.append(asked)
            if self.path != "/data.hdf5":
                self.send_error(404)
                return
            begin = 0
            if asked and self.headers.get("If-Range") == state.tag:
                begin = int(asked.removeprefix("bytes=").removesuffix("-"))
                if begin >= len(state.content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(state.content)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
            body = state.content[begin:]
            self.send_response(206 if begin else 200)
            if begin:
                total = len(state.content)
                self.send_header("Content-Range", f"bytes {begin}-{total - 1}/{total}")
            if state.tag:
                self.send_header("ETag", state.tag)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            limit = state.cut_after.pop(0) if state.cut_after else len(body)
            self.wfile.write(body[:limit])

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/data.hdf5"
    yield state
    server.shutdown()
    thread.join(timeout=10)
    server.server_close()


@pytest.fixture
def closed_url():
    """An address at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return f"http://127.0.0.1:{port}/data.hdf5"


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_download_is_renamed_when_complete_and_its_checksum_recorded(served, tmp_path):
    path = tmp_path / "new" / "data.hdf5"
    fetch([served.url], path, sha256=None, remedy=REMEDY)
    assert path.read_bytes() == CONTENT
    assert files(path.parent) == ["data.hdf5", "data.hdf5.sha256"]
    assert (path.parent / "data.hdf5.sha256").read_text() == f"{DIGEST}  data.hdf5\n"


def test_a_file_that_is_there_is_not_fetched_again(served, tmp_path):
    path = tmp_path / "data.hdf5"
    path.write_bytes(b"someone else put it here")
    fetch([served.url], path, sha256=None, remedy=REMEDY)
    assert served.ranges == []


def test_a_dropped_connection_is_resumed_where_it_stopped(served, tmp_path):
    served.cut_after = [100_000, 50_000]
    path = tmp_path / "data.hdf5"
    fetch([served.url], path, sha256=DIGEST, remedy=REMEDY)
    assert path.read_bytes() == CONTENT
    assert served.ranges == [None, "bytes=100000-", "bytes=150000-"]


def test_a_download_goes_on_in_the_next_call(served, tmp_path, monkeypatch):
    path = tmp_path / "data.hdf5"
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    served.cut_after = [100_000]
    with pytest.raises(Mistake, match="connection closed after 100,000 of 300,000 bytes"):
        fetch([served.url], path, sha256=None, remedy=REMEDY)
    assert files(tmp_path) == ["data.hdf5.part", "data.hdf5.part.json"]
    fetch([served.url], path, sha256=None, remedy=REMEDY)
    assert path.read_bytes() == CONTENT
    assert served.ranges == [None, "bytes=100000-"]
    assert files(tmp_path) == ["data.hdf5", "data.hdf5.sha256"]


def test_a_download_starts_over_if_the_file_changed_meanwhile(served, tmp_path, monkeypatch):
    path = tmp_path / "data.hdf5"
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    served.cut_after = [100_000]
    with pytest.raises(Mistake):
        fetch([served.url], path, sha256=None, remedy=REMEDY)
    served.content, served.tag = CONTENT[::-1], '"two"'
    fetch([served.url], path, sha256=None, remedy=REMEDY)
    assert path.read_bytes() == CONTENT[::-1]


def test_without_a_mark_of_the_version_nothing_is_resumed(served, tmp_path):
    served.tag = None
    served.cut_after = [100_000]
    path = tmp_path / "data.hdf5"
    fetch([served.url], path, sha256=None, remedy=REMEDY)
    assert path.read_bytes() == CONTENT
    assert served.ranges == [None, None]


def test_a_complete_part_is_taken_as_it_is(served, tmp_path):
    path = tmp_path / "data.hdf5"
    (tmp_path / "data.hdf5.part").write_bytes(CONTENT)
    about = f'{{"url": "{served.url}", "validator": "\\"one\\""}}'
    (tmp_path / "data.hdf5.part.json").write_text(about)
    fetch([served.url], path, sha256=DIGEST, remedy=REMEDY)
    assert path.read_bytes() == CONTENT
    assert served.ranges == ["bytes=300000-"]


def test_the_next_mirror_is_tried(served, closed_url, tmp_path, caplog):
    missing = served.url.replace("data", "other")
    path = tmp_path / "data.hdf5"
    with caplog.at_level(logging.WARNING):
        fetch([closed_url, missing, served.url], path, sha256=None, remedy=REMEDY)
    assert path.read_bytes() == CONTENT
    assert closed_url in caplog.text
    assert "HTTP 404" in caplog.text


def test_unreachable_mirrors_end_in_one_line_with_the_remedy(served, closed_url, tmp_path):
    missing = served.url.replace("data", "other")
    with pytest.raises(Mistake) as caught:
        fetch([closed_url, missing], tmp_path / "data.hdf5", sha256=None, remedy=REMEDY)
    message = str(caught.value)
    assert "\n" not in message
    assert f"{closed_url} (" in message
    assert "refused" in message
    assert "HTTP 404" in message
    assert message.endswith(REMEDY)
    assert files(tmp_path) == []


def test_a_wrong_checksum_is_not_accepted(served, tmp_path):
    with pytest.raises(Mistake, match=f"sha256 {DIGEST}, expected {'0' * 64}"):
        fetch([served.url], tmp_path / "data.hdf5", sha256="0" * 64, remedy=REMEDY)
    assert files(tmp_path) == []


def test_a_file_that_changed_since_its_download_is_refused(served, tmp_path):
    path = tmp_path / "data.hdf5"
    fetch([served.url], path, sha256=None, remedy=REMEDY)
    with path.open("r+b") as file:
        file.write(b"damage")
    with pytest.raises(ValueError, match=r"data\.hdf5\.sha256.*move it and"):
        fetch([served.url], path, sha256=None, remedy=REMEDY)


def test_a_given_checksum_goes_before_the_recorded_one(tmp_path):
    path = tmp_path / "data.hdf5"
    path.write_bytes(b"abc")
    (tmp_path / "data.hdf5.sha256").write_text("0" * 64 + "  data.hdf5\n")
    # SHA-256 of "abc" as in FIPS 180-2, appendix B.1
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert checksum(path) == known
    verify(path, known.upper())
    with pytest.raises(ValueError, match="expected 0000"):
        verify(path, None)


def test_other_kinds_of_addresses_are_refused(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"local")
    with pytest.raises(Mistake, match="only http"):
        fetch([source.as_uri()], tmp_path / "data.hdf5", sha256=None, remedy=REMEDY)


def test_a_folder_that_cannot_be_written_is_named(served, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Mistake, match=r"could not write .*dataset\.path"):
        fetch([served.url], tmp_path / "file" / "data.hdf5", sha256=None, remedy=REMEDY)


def test_a_full_disk_leaves_no_file_under_the_final_name(served, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(Mistake, match="No space left on device"):
        fetch([served.url], tmp_path / "data.hdf5", sha256=None, remedy=REMEDY)
    assert not (tmp_path / "data.hdf5").exists()


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"abc  data.hdf5\n"])
def test_a_damaged_record_of_the_checksum_is_named(tmp_path, text):
    path = tmp_path / "data.hdf5"
    path.write_bytes(CONTENT)
    record = tmp_path / "data.hdf5.sha256"
    record.write_bytes(text)
    with pytest.raises(Mistake, match=r"data\.hdf5\.sha256 is damaged; delete it"):
        fetch([], path, sha256=None, remedy=REMEDY)
    record.unlink()  # as the message says
    fetch([], path, sha256=None, remedy=REMEDY)
