import os
import shutil
import subprocess
import sys

import pytest
import torch

from reverie.training.compilation import compile_whole, should_compile


def test_auto_compiles_on_a_gpu_only():
    assert should_compile("auto", torch.device("cuda")) and not should_compile(
        "auto", torch.device("cpu")
    )
    assert should_compile(True, torch.device("cpu")) and not should_compile(
        False, torch.device("cuda")
    )
    with pytest.raises(ValueError, match="use auto, true or false"):
        should_compile("sometimes", torch.device("cpu"))


def test_what_cannot_be_compiled_runs_as_it_is_with_one_warning(caplog, monkeypatch):
    def refuse(function, **options):
        def call(*arguments):
            raise RuntimeError("no compiler here\nand more lines")

        return call

    monkeypatch.setattr(torch, "compile", refuse)
    function = compile_whole(lambda x: x + 1, torch.device("cpu"))
    assert function(1) == 2 and function(2) == 3
    warnings = [record.message for record in caplog.records]
    assert len(warnings) == 1
    assert "going on without it (RuntimeError: no compiler here)" in warnings[0]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the CPU compiler needs g++")
def test_compiled_and_plain_training_agree(tmp_path):
    """Sampling, rollout and update each compile into one graph and follow the same numbers.

    RAVL's update is SAC's with a double backward pass; tests/agents trace the other agents.
    """
    done = subprocess.run(
        [sys.executable, "tests/training/compiled_training.py", "ravl"],
        env={**os.environ, "PYTHONPATH": ".", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "agree" in done.stdout
