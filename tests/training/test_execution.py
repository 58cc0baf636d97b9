"""What a run decides about how it is carried out, and keeps when it is resumed."""

import json

import pytest
import torch

from reverie.mistake import Mistake
from reverie.training import compilation, execution
from reverie.training.compilation import REPAID, decided, keep_compiled, repays
from reverie.training.execution import Execution, settle
from reverie.training.run_directory import EXECUTION


@pytest.fixture(autouse=True)
def _machine(monkeypatch):
    """Sixteen cores, a C++ compiler, and torch's threads as before afterwards."""
    monkeypatch.setattr(execution, "count_cores", lambda: 16)
    monkeypatch.setattr(compilation.shutil, "which", lambda name: f"/usr/bin/{name}")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_run_keeps_what_it_began_with(tmp_path):
    torch.set_num_threads(3)
    begun = settle(tmp_path, threads=None, compiled=None, updates=REPAID)
    assert begun == Execution(threads=3, compiled=True)
    torch.set_num_threads(2)  # what a busier machine has to give
    assert settle(tmp_path, threads=None, compiled=None, updates=REPAID) == begun
    assert torch.get_num_threads() == 3
    (tmp_path / EXECUTION).write_text('{"threads": 1, "compiled": false}')
    resumed = settle(tmp_path, threads=None, compiled=None, updates=REPAID)
    assert resumed == Execution(threads=1, compiled=False)


def test_an_agent_that_gains_nothing_is_compiled_where_the_settings_say_so(tmp_path):
    given = {"threads": 1, "updates": REPAID, "gains": False}
    assert not settle(tmp_path, compiled=None, **given).compiled
    assert settle(tmp_path, compiled=True, **given).compiled
    assert settle(tmp_path, compiled=None, **given).compiled  # as it was


def test_what_the_settings_say_wins_and_is_kept(tmp_path):
    settle(tmp_path, threads=2, compiled=False, updates=REPAID)
    assert settle(tmp_path, threads=4, compiled=True, updates=3) == Execution(4, True)
    assert json.loads((tmp_path / EXECUTION).read_text()) == {"threads": 4, "compiled": True}
    assert torch.get_num_threads() == 4


def test_a_machine_with_fewer_cores_has_fewer_threads(tmp_path, monkeypatch):
    settle(tmp_path, threads=8, compiled=False, updates=1)
    monkeypatch.setattr(execution, "count_cores", lambda: 2)
    assert settle(tmp_path, threads=None, compiled=None, updates=1).threads == 2


def test_a_run_of_an_earlier_version_goes_on_as_it_was(tmp_path):
    (tmp_path / "checkpoint.pt").touch()
    assert not settle(tmp_path, threads=None, compiled=None, updates=REPAID).compiled


def test_nothing_is_written_where_nothing_is_kept():
    assert settle(None, threads=1, compiled=None, updates=1) == Execution(1, False)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"threads": 1}', '{"threads": 0, "compiled": true}', "\x00"]
)
def test_a_damaged_record_is_named_with_what_to_do(tmp_path, text):
    (tmp_path / EXECUTION).write_text(text)
    with pytest.raises(Mistake, match=r"execution.json is damaged .* delete it"):
        settle(tmp_path, threads=None, compiled=None, updates=1)
    (tmp_path / EXECUTION).unlink()
    settle(tmp_path, threads=None, compiled=None, updates=1)


def test_long_runs_repay_compilation_where_there_is_a_compiler(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    assert repays(REPAID) and not repays(REPAID - 1)
    monkeypatch.setattr(compilation.shutil, "which", lambda name: None)
    assert not repays(REPAID)


def test_only_auto_on_a_cpu_leaves_it_to_the_length_of_the_run():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert decided("auto", cpu) is None and decided("auto", gpu) is True
    assert decided(True, cpu) is True and decided(False, gpu) is False


def test_what_is_compiled_is_kept_unless_the_user_has_chosen_a_place(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "mine")
    keep_compiled(tmp_path)
    assert compilation.os.environ["TORCHINDUCTOR_CACHE_DIR"] == "mine"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    keep_compiled(tmp_path)
    assert compilation.os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "compiled")
