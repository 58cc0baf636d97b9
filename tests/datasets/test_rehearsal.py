"""A file that crashes its library, or is never read to its end, is refused before it can."""

import logging
import os
import signal

import h5py
import numpy as np
import pytest

from reverie.datasets.readers import rehearsal
from reverie.datasets.readers.columns import read_hdf5
from reverie.datasets.readers.rehearsal import read_in_child, rehearse
from reverie.mistake import Mistake


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "log.hdf5"
    with h5py.File(path, "w") as opened:
        opened["rewards"] = np.arange(3.0)
    return path


def crash(*_):
    os.kill(os.getpid(), signal.SIGSEGV)


def test_a_crash_is_one_line(file):
    with pytest.raises(Mistake, match=r"makes the HDF5 library crash \(SIGSEGV\).*: copy"):
        rehearse(file, crash, "copy it again")


def test_an_endless_reading_is_one_line(file, monkeypatch):
    monkeypatch.setattr(rehearsal, "SECONDS", 1)

    def loop():
        while True:
            pass

    with pytest.raises(Mistake, match="not read to its end in 1 s of processor time"):
        rehearse(file, loop, "copy it again")


def test_columns_are_read_only_after_a_child_survived_it(file, monkeypatch):
    here = os.getpid()
    asked = []

    def choose(held):
        asked.append(os.getpid())  # the child's list is its own
        if os.getpid() != here:
            crash()
        return held

    with pytest.raises(Mistake, match="restore it from a copy"):
        read_hdf5(file, choose)
    assert asked == []


def test_nothing_of_the_child_is_seen(file, capfd, caplog):
    def read():
        print("printed")
        logging.getLogger().error("logged")
        raise ValueError("raised")

    print("before")
    rehearse(file, read, "copy it again")
    printed = capfd.readouterr()
    assert (printed.out, printed.err, caplog.text) == ("before\n", "", "")


def test_a_file_is_read_once_and_what_the_child_logged_is_logged(file, tmp_path, caplog):
    def read(new):
        with (tmp_path / "readers").open("a") as readers:
            readers.write(f"{os.getpid()}\n")
        logging.getLogger("reverie.child").warning("%s of it", "much")
        shared = new((2, 3), np.float32)
        shared[...] = np.arange(6).reshape(2, 3)
        return {"flat": shared.reshape(6), "own": np.arange(3)[::-1], "none": new((0, 2), bool)}

    found = read_in_child(file, read, "copy it again")
    assert (tmp_path / "readers").read_text().split() != [str(os.getpid())]
    assert len((tmp_path / "readers").read_text().split()) == 1
    assert caplog.messages == ["much of it"]
    assert found["flat"].tolist() == [0, 1, 2, 3, 4, 5] and found["own"].tolist() == [2, 1, 0]
    assert found["none"].shape == (0, 2)
    found["flat"][0] = 7.0  # it is ours to change


def test_what_the_child_raised_is_raised_here(file):
    def read(new):
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        read_in_child(file, read, "copy it again")


def test_a_child_that_ends_in_the_middle_has_read_nothing(file):
    here = os.getpid()

    def read(new):
        if os.getpid() != here:
            os._exit(0)
        return {"a": new((1,), bool)}

    assert read_in_child(file, read, "copy it again")["a"].shape == (1,)
