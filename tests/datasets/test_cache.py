"""Cached arrays are made once, whole, and made again when damaged."""

import logging
import random
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from reverie.datasets import cache
from reverie.datasets.cache import cache_root, cached_arrays
from reverie.datasets.names import local_id, short_name
from reverie.mistake import Mistake
from reverie.temporary import replacing


def test_the_root_follows_the_environment_and_is_not_created(monkeypatch, tmp_path):
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path / "here"))
    assert cache_root() == tmp_path / "here"
    assert not cache_root().exists()
    monkeypatch.delenv("REVERIE_CACHE")
    assert cache_root() == Path.home() / ".cache" / "reverie"


def test_arrays_are_made_once(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return {"a": np.arange(3), "b": np.eye(2, dtype=np.float32)}

    first = cached_arrays(tmp_path / "sub" / "x.npz", make)
    second = cached_arrays(tmp_path / "sub" / "x.npz", make)
    assert len(calls) == 1
    for key in ("a", "b"):
        assert np.array_equal(first[key], second[key])
        assert first[key].dtype == second[key].dtype


def test_a_damaged_file_is_made_again_with_a_warning(tmp_path, caplog):
    path = tmp_path / "x.npz"
    cached_arrays(path, lambda: {"a": np.arange(1000)})
    path.write_bytes(path.read_bytes()[:500])
    with caplog.at_level(logging.WARNING):
        again = cached_arrays(path, lambda: {"a": np.arange(1000)})
    assert "making it again" in caplog.text
    assert again["a"][-1] == 999
    assert cached_arrays(path, lambda: {})["a"][-1] == 999  # repaired on disk too


def test_a_flipped_bit_anywhere_is_mended_or_changes_nothing(tmp_path):
    made = {"obs": np.arange(12.0).reshape(4, 3), "done": np.array([True, False])}
    path = tmp_path / "x.npz"
    cached_arrays(path, lambda: made)
    whole = path.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(whole)), 100):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        found = cached_arrays(path, lambda: made)
        assert list(found) == list(made)
        assert all(np.array_equal(found[key], made[key]) for key in made)


def test_a_file_that_the_system_refuses_to_read_is_named(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    cached_arrays(path, lambda: {"a": np.zeros(1)})

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(cache, "require_whole", refuse)
    with pytest.raises(Mistake, match=f"{path} cannot be read: Permission denied"):
        cached_arrays(path, lambda: {})


def test_what_killed_processes_left_in_the_folder_goes(tmp_path):
    gone = tmp_path / ".other.npz.999999999.part"
    gone.write_bytes(b"half")
    cached_arrays(tmp_path / "x.npz", lambda: {"a": np.zeros(1)})
    assert not gone.exists()


def test_a_failing_maker_leaves_nothing_behind(tmp_path):
    def make():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cached_arrays(tmp_path / "x.npz", make)
    assert not list(tmp_path.glob("*.npz"))


def test_a_folder_that_cannot_be_made_gives_the_remedy(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Mistake, match="REVERIE_CACHE"):
        cached_arrays(tmp_path / "file" / "x.npz", lambda: {"a": np.zeros(1)})


def test_a_full_disk_keeps_the_previous_file_and_gives_the_remedy(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    path.write_bytes(b"previous")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "open", full)
    with pytest.raises(Mistake, match=r"No space left on device.*REVERIE_CACHE"):
        cached_arrays(path, lambda: {"a": np.zeros(1)})
    assert path.read_bytes() == b"previous"
    assert sorted(item.name for item in tmp_path.iterdir() if item.suffix != ".lock") == ["x.npz"]


def test_replacing_leaves_the_old_file_when_the_block_fails(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"name": "mine", "id": "a/b-v0"}, "mine"),
        ({"name": None, "id": "a/b-v0", "clip_actions": False}, "a-b-v0"),
        ({"id": "hf://farama-minari/D4RL/door/human-v2"}, "D4RL-door-human-v2"),
        ({"name": None, "path": "/some/where/log.v1.hdf5"}, "log.v1"),
        ({"name": None, "env_id": "package:space/Task-v0"}, "package-space-Task-v0"),
    ],
)
def test_short_names_follow_from_the_options(options, expected):
    assert short_name(**options) == expected


def test_a_dataset_without_any_name_is_refused():
    with pytest.raises(ValueError, match=r"dataset\.name"):
        short_name(name=None)


def test_a_remote_is_no_part_of_an_id():
    assert local_id("hf://farama-minari/a/b-v0") == "a/b-v0"
    assert local_id("a/b-v0") == "a/b-v0"


def test_of_several_that_ask_at_once_one_makes_the_file(tmp_path):
    calls = []
    started = threading.Event()

    def make():
        calls.append(1)
        started.wait(0.2)  # give the others time to arrive
        return {"a": np.arange(5)}

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: cached_arrays(tmp_path / "x.npz", make), range(4)))
    assert len(calls) == 1
    assert all(result["a"].tolist() == [0, 1, 2, 3, 4] for result in results)
