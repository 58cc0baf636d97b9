import errno
import json
import random
import threading
from multiprocessing.pool import ThreadPool

import pytest
import torch
from filelock import FileLock

from reverie.mistake import Mistake, Unwritable
from reverie.training import files


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "state.pt"
    files.save_tensors(path, "thing", {"value": torch.ones(3)})

    def full(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(Mistake, match=r"could not write .*state.pt.*free some disk space"):
        files.write_atomically(path, full)
    assert torch.equal(files.load_tensors(path, "thing")["value"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


def test_a_full_disk_is_reported_by_a_real_write(command, tmp_path):
    """A file-size limit makes the operating system refuse the write half-way."""
    code = (
        "import sys, torch; from pathlib import Path;"
        "from reverie.training import files;"
        "files.save_tensors(Path(sys.argv[1]), 'thing', {'value': torch.ones(100000)})"
    )
    (tmp_path / "saved").mkdir()
    path = tmp_path / "saved" / "state.pt"
    files.save_tensors(path, "thing", {"value": torch.zeros(2)})
    done = command("-c", code, str(path), limit=20000)
    assert done.returncode != 0
    assert "could not write" in done.stderr and "free some disk space" in done.stderr
    assert torch.equal(files.load_tensors(path, "thing")["value"], torch.zeros(2))
    assert [p.name for p in path.parent.iterdir()] == ["state.pt"]


@pytest.mark.parametrize("below", ["", "deeper", "deeper/still"])
@pytest.mark.parametrize(
    "write",
    [
        lambda folder: files.write_text(folder / "page.html", "x"),
        lambda folder: files.lock_directory(folder).__enter__(),
    ],
)
def test_a_file_in_the_place_of_a_folder_is_named_and_stays(tmp_path, write, below):
    file = tmp_path / "notes"
    file.write_text("mine")
    with pytest.raises(Unwritable) as caught:
        write(file / below)
    told = str(caught.value)
    assert " is a file and no folder; " in told and "a folder" in told.partition("; ")[2]
    assert str(file) in told and "space" not in told
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: path.write_bytes(path.read_bytes()[:-200]), "is damaged or not ours"),
        (lambda path: path.write_bytes(b""), "is damaged or not ours"),
        (lambda path: torch.save({"a": 1}, path), "is not a thing of this project"),
        (
            lambda path: torch.save({"reverie": "thing", "format": 99}, path),
            "another version of Reverie .format 99, this one reads 2.; make it again",
        ),
    ],
)
def test_files_that_cannot_be_used_say_why(tmp_path, spoil, message):
    path = tmp_path / "state.pt"
    files.save_tensors(path, "thing", {"value": torch.ones(100)})
    spoil(path)
    with pytest.raises(Mistake, match=message):
        files.load_tensors(path, "thing")


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    return one == other


def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(tmp_path):
    path = tmp_path / "state.pt"
    contents = {"value": torch.randn(20), "rows": torch.arange(4), "update": 7, "text": "a,b"}
    files.save_tensors(path, "thing", contents)
    whole, before = path.read_bytes(), files.load_tensors(path, "thing")
    bits = random.Random(0).sample(range(8 * len(whole)), 500)
    refused = 0
    for bit in bits:
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            assert equal(files.load_tensors(path, "thing"), before)
        except Mistake as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 480
    for length in range(0, len(whole) - 80, 97):
        path.write_bytes(whole[:length])
        with pytest.raises(Mistake, match=f"{path} cannot be read"):
            files.load_tensors(path, "thing")


def test_a_file_of_an_earlier_version_is_verified_by_its_checksums(tmp_path):
    path = tmp_path / "state.pt"
    torch.save({"reverie": "thing", "format": files.FORMAT, "value": torch.ones(100)}, path)
    assert torch.equal(files.load_tensors(path, "thing")["value"], torch.ones(100))
    whole = path.read_bytes()
    at = whole.index(torch.ones(100).numpy().tobytes()) + 200
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(Mistake, match="is not what was written"):
        files.load_tensors(path, "thing")


def test_what_the_system_refuses_to_read_is_not_called_damaged(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    files.save_tensors(path, "thing", {})

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(files, "require_whole", refuse)
    with pytest.raises(Mistake, match="cannot be read: Permission denied; make it readable"):
        files.load_tensors(path, "thing")


class Bounded(torch.nn.Linear):
    """Weights, and a statistic that is infinite until something is met."""

    def __init__(self):
        super().__init__(2, 1)
        self.register_buffer("bound", torch.tensor(torch.inf))


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("bias", 0.0, True),
        ("bias", float("nan"), False),
        ("weight", float("inf"), False),
        ("bound", float("inf"), True),
        ("bound", float("nan"), False),
    ],
)
def test_weights_that_are_not_finite_are_refused(tmp_path, name, value, accepted):
    module = Bounded()
    state = module.state_dict()
    state[name].fill_(value)
    if accepted:
        files.require_finite(tmp_path, module, state)
        return
    with pytest.raises(Mistake, match=rf"not finite \({name}\).*diverged; lower"):
        files.require_finite(tmp_path, module, state, "lower the learning rate")


def test_loading_runs_no_code_from_the_file(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (exec, ("raise SystemExit('ran')",))

    path = tmp_path / "state.pt"
    torch.save({"reverie": "thing", "format": files.FORMAT, "value": Malicious()}, path)
    with pytest.raises(ValueError, match="is damaged or not ours"):
        files.load_tensors(path, "thing")


def test_json_is_whole_and_has_no_nan(tmp_path):
    files.write_json(tmp_path / "a.json", {"x": [1.0, float("nan")], "y": (float("inf"),)})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1.0, None], "y": [None]}


def test_a_directory_belongs_to_one_process_at_a_time(command, tmp_path):
    code = (
        "import sys; from pathlib import Path; from reverie.training.files import lock_directory\n"
        "with lock_directory(Path(sys.argv[1])): print('works')"
    )
    with files.lock_directory(tmp_path):
        second = command("-c", code, str(tmp_path))
        assert second.returncode != 0 and "another process is working in" in second.stderr
    after = command("-c", code, str(tmp_path))
    assert after.stdout == "works\n", after.stderr


def refusal(directory):
    with pytest.raises(Mistake) as refused, files.lock_directory(directory):
        pytest.fail("the directory was taken twice")
    return str(refused.value)


def test_a_directory_is_free_again_after_the_block_however_it_ends(tmp_path):
    directory = tmp_path / "runs" / "0"
    for _ in range(2):
        with files.lock_directory(directory):
            assert [path.name for path in directory.iterdir()] == [files.LOCK]
            with files.lock_directory(directory):  # what it calls may take it again
                pass
            assert (directory / files.LOCK).exists()  # and does not release it
            refused = ThreadPool(1).apply(refusal, (directory,))
            assert "another process is working in" in refused
            assert (directory / files.LOCK).exists()  # whoever was refused leaves it alone
        with pytest.raises(KeyError), files.lock_directory(directory):
            raise KeyError
    assert not list(directory.iterdir())


def test_who_waited_for_a_lock_file_that_is_gone_takes_the_new_one(tmp_path):
    """The lock of a trial that outlived its search is waited for in this way."""
    waiting, taken, leave = threading.Event(), threading.Event(), threading.Event()

    def wait():
        waiting.set()
        with FileLock(tmp_path / files.LOCK):
            taken.set()
            leave.wait()

    with files.lock_directory(tmp_path):
        thread = threading.Thread(target=wait)
        thread.start()
        waiting.wait()
        assert not taken.wait(0.1)
    try:
        assert taken.wait(60)
        with (
            pytest.raises(Mistake, match="another process is working in"),
            files.lock_directory(tmp_path),
        ):
            pytest.fail("two hold the directory")
    finally:
        leave.set()
        thread.join()


@pytest.mark.parametrize("mark", ["reverie", "format"])
def test_a_file_whose_marks_are_tensors_is_not_ours(tmp_path, mark):
    path = tmp_path / "model.pt"
    files.save_tensors(path, "thing", {mark: torch.ones(2)})
    with pytest.raises(Mistake, match=r"model\.pt is not a thing of this project"):
        files.load_tensors(path, "thing")


@pytest.mark.parametrize(
    "value", [torch.ones(2), {"a": [torch.ones(())]}, {1: 2}, (1, {"deep": torch.zeros(1)})]
)
def test_what_tells_a_file_apart_holds_no_tensors(tmp_path, value):
    """They are compared with what a run has, which of two tensors is no yes or no."""
    path = tmp_path / "model.pt"
    files.save_tensors(path, "thing", {"signature": {"a": (1, None, 2.5), "b": ["x", True]}})
    files.load_tensors(path, "thing")
    files.save_tensors(path, "thing", {"signature": value})
    with pytest.raises(Mistake, match=r"model\.pt is damaged .its signature holds"):
        files.load_tensors(path, "thing")
