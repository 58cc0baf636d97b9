"""Killed commands end as uninterrupted ones; `python -m tests.robustness.kills` kills more."""

import random
import subprocess
import sys

import pytest

from tests.robustness import kills
from tests.robustness.ambush import CHECKOUT, Ending
from tests.robustness.likeness import differences


@pytest.mark.slow
def test_kills_change_nothing():
    done = subprocess.run(
        [sys.executable, "-m", "tests.robustness.kills", "--kills", "8", "--seed", "1"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_folders_differ_by_names_and_contents_and_not_by_times(tmp_path):
    for name, seconds, rows in (("a", 1, "1,2\n"), ("b", 2, "1,3\n")):
        folder = tmp_path / name
        (folder / name).mkdir(parents=True)
        (folder / "summary.json").write_text(f'{{"seconds": {seconds}, "score": NaN}}')
        (folder / "metrics.csv").write_text(rows)
    assert differences(tmp_path / "a", tmp_path / "b") == [
        "a is missing",
        "b is left over",
        "metrics.csv differs",
    ]


def test_a_command_that_does_not_come_back_to_its_end_is_a_fault(tmp_path, monkeypatch):
    """The first attempt dies, the second one is cut short as well."""
    start, whole = tmp_path / "start", tmp_path / "whole"
    start.mkdir(), whole.mkdir()
    (whole / "summary.json").write_text("{}")
    endings = [Ending(-9, ""), Ending(0, "")]
    monkeypatch.setattr(kills.ambush, "run", lambda *arguments: endings.pop(0))
    subject = kills.Subject(kills.SCENARIOS["run"], start, whole, {"file": 5})
    trial = kills.Trial(0, "run")

    class Once(random.Random):
        def choice(self, offered):
            return offered[0]

    trial.carry_out(subject, tmp_path / "trial", Once(0))
    assert len(trial.hit) == 1 and trial.fault == "summary.json is missing"
