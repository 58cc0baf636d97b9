"""The script for a lent GPU runs where there is none, with every measurement in it."""

import json

import pytest
import torch

from reverie.benchmarks import gpu


@pytest.mark.slow
def test_a_quick_look_on_the_cpu_measures_all_and_agrees(command, tmp_path):
    output = tmp_path / "gpu.json"
    typed = ("--quick", "--device", "cpu", "--compile", "false", "--output", str(output))
    done = command("-m", "benchmarks.gpu", *typed)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    report = json.loads(output.read_text())
    wanted = [name for name, *_ in gpu.measurements(gpu.QUICK, torch.device("cpu"), False)]
    assert list(report["found"]) == wanted and not report["left_out"] and report["quick"]
    assert report["found"]["resume"]["holds"]
    assert set(report["found"]["agreement with the CPU"]["largest"].values()) == {0.0}
    assert [claim["text"] for claim in report["claims"]] == wanted


def test_the_measurements_fit_into_the_time_that_a_gpu_is_lent_for():
    least = [seconds for _, seconds, _ in gpu.measurements(gpu.FULL, torch.device("cpu"), True)]
    assert sum(least) <= gpu.LIMIT


def test_what_there_is_no_time_for_is_left_out(command, tmp_path):
    output = tmp_path / "gpu.json"
    typed = ("--quick", "--device", "cpu", "--seconds", "8", "--output", str(output))
    assert command("-m", "benchmarks.gpu", *typed).returncode == 0
    report = json.loads(output.read_text())
    assert "updates, 1 seeds" in report["left_out"] and "memory, 1 seeds" in report["found"]


@pytest.mark.parametrize("draw", [torch.randn_like, lambda x: x.clone().exponential_()])
def test_random_numbers_are_those_of_the_host(draw):
    torch.manual_seed(0)
    plain = draw(torch.zeros(3))
    torch.manual_seed(0)
    with gpu.SameNumbers():
        assert torch.equal(draw(torch.zeros(3)), plain)
