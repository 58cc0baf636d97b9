"""Damaged files and strange settings: right values or one clear line, never anything else."""

import subprocess
import sys

import pytest

from tests.robustness.sandbox import CHECKOUT
from tests.robustness.subjects import SUBJECTS

TRAINED = ("run", "plant")
"""Subjects that train runs first, which takes most of a minute."""


@pytest.mark.parametrize(
    ("mutations", "seed", "subjects"),
    [
        (20, 0, [name for name in SUBJECTS if name not in TRAINED]),
        pytest.param(100, 1, list(SUBJECTS), marks=pytest.mark.slow),
    ],
    ids=["files", "all"],
)
def test_nothing_but_a_clear_refusal_comes_of_damage(mutations, seed, subjects):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.robustness"),
            *("--mutations", str(mutations), "--seed", str(seed), "--jobs", "1"),
            *("--subjects", *subjects),
        ],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
