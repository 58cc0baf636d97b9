"""Damaged files and strange settings: right values or one clear line, never anything else."""

import subprocess
import sys

import pytest

from tests.robustness.sandbox import CHECKOUT


@pytest.mark.parametrize(
    ("mutations", "seed"), [(20, 0), pytest.param(100, 1, marks=pytest.mark.slow)]
)
def test_nothing_but_a_clear_refusal_comes_of_damage(mutations, seed):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.robustness"),
            *("--mutations", str(mutations), "--seed", str(seed), "--jobs", "1"),
        ],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
