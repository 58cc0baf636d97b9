"""Cores that a run may use, those that are free, and how threads wait."""

import os
import subprocess
import sys

import pytest

from reverie.training import cores
from reverie.training.cores import busy_cores, count_cores, count_free_cores, threads_of_user


def test_cores_that_a_process_may_not_use_do_not_count(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5}, raising=False)
    assert count_cores() == 2
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert count_cores() == 1


def test_work_is_counted_core_by_core():
    before = {0: (0, 100), 1: (50, 100), 2: (0, 0)}
    after = {0: (100, 200), 1: (50, 200), 2: (0, 0)}  # the last one was asleep
    assert busy_cores(before, after) == 1
    assert busy_cores({}, after) == 0  # it came up in between


@pytest.mark.parametrize(
    ("idle", "free"),
    [((100, 100, 100, 100), 4), ((0, 100, 100, 100), 3), ((50, 60, 100, 100), 3), ((0,) * 4, 1)],
)
def test_cores_that_others_keep_busy_are_not_free(monkeypatch, tmp_path, idle, free):
    monkeypatch.setattr(cores, "count_cores", lambda: 4)
    monkeypatch.setattr(cores, "STATISTICS", tmp_path / "stat")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(4), raising=False)
    (tmp_path / "stat").write_text("\n".join(f"cpu{core} 0 0 0 0 0 0 0 0" for core in range(4)))
    after = "\n".join(f"cpu{core} {100 - i} 0 0 {i} 0 0 0 0" for core, i in enumerate(idle))
    monkeypatch.setattr(cores.time, "sleep", lambda _: (tmp_path / "stat").write_text(after))
    assert count_free_cores() == free


def test_a_system_that_does_not_tell_its_load_has_all_cores_free(monkeypatch, tmp_path):
    monkeypatch.setattr(cores, "count_cores", lambda: 4)
    monkeypatch.setattr(cores, "STATISTICS", tmp_path / "none")
    assert count_free_cores() == 4


@pytest.mark.parametrize(
    ("text", "threads"), [("", None), ("3", 3), ("4,2", 4), ("0", 1), ("many", None)]
)
def test_threads_that_the_user_asks_for(monkeypatch, text, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert threads_of_user() == threads


@pytest.mark.parametrize(
    ("given", "policy", "spins"),
    [
        ({}, "PASSIVE", "1000"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE", None),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, "PASSIVE", None),
        ({"GOMP_SPINCOUNT": "9"}, None, "9"),
    ],
)
def test_threads_that_wait_soon_leave_their_core_unless_the_user_says_otherwise(
    given, policy, spins
):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    code = (
        "import sys, os, reverie; get = os.environ.get; "
        "print(get('OMP_WAIT_POLICY'), get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept | given, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(policy), str(spins), "False"]
