import csv
import errno
import hashlib
import threading

import pytest
import torch

from reverie.mistake import Mistake
from reverie.training.logging import Log, NoTracker, TensorBoardTracker, WandbTracker, _wandb_id


class Recorder(NoTracker):
    def __init__(self):
        self.written = []

    def write(self, update, values):
        self.written.append((update, dict(values)))


def rows(path):
    with open(path, newline="") as file:
        return [
            (int(r["update"]), int(r["seed"]), r["metric"], float(r["value"]))
            for r in csv.DictReader(file)
        ]


def started(path, seeds=2, tracker=None):
    log = Log(path, tracker or NoTracker(), seeds)
    log.begin()
    return log


def test_flush_writes_the_mean_since_the_last_flush_of_every_seed(tmp_path):
    log = started(tmp_path / "m.csv")
    log.add({"loss": torch.tensor([1.0, 10.0])})
    log.add({"loss": torch.tensor([3.0, 20.0])})
    log.flush(2)
    log.add({"loss": torch.tensor([5.0, 5.0])})
    log.flush(3)
    assert rows(tmp_path / "m.csv") == [
        (2, 0, "loss", 2.0),
        (2, 1, "loss", 15.0),
        (3, 0, "loss", 5.0),
        (3, 1, "loss", 5.0),
    ]


def test_measurements_may_be_overwritten_after_they_were_added(tmp_path):
    log = started(tmp_path / "m.csv", seeds=1)
    value = torch.tensor([1.0])
    log.add({"loss": value})
    value.fill_(99.0)
    log.flush(1)
    assert rows(tmp_path / "m.csv") == [(1, 0, "loss", 1.0)]


def test_a_diverged_seed_is_named_with_its_metric_and_a_remedy(tmp_path):
    log = started(tmp_path / "m.csv")
    log.add({"critic_loss": torch.tensor([1.0, float("inf")])})
    with pytest.raises(Mistake, match=r"critic_loss \(seeds \[1\]\).*lower the"):
        log.flush(7)


def test_a_resumed_log_equals_one_that_was_never_interrupted(tmp_path):
    def work(log, first, last, checkpoint_at=None):
        state = None
        for update in range(first + 1, last + 1):
            log.add({"loss": torch.tensor([float(update)])})
            if update % 2 == 0:
                log.flush(update)
            if update % 4 == 0:
                log.record_evaluation(update, [update * 1.0], [update * 10.0])
            if update == checkpoint_at:
                state = log.state()
        return state

    whole = started(tmp_path / "whole.csv", 1)
    work(whole, 0, 12)
    broken = started(tmp_path / "broken.csv", 1)
    state = work(broken, 0, 9, checkpoint_at=7)  # killed at 9, two updates after its checkpoint
    resumed = Log(tmp_path / "broken.csv", NoTracker(), 1)
    resumed.restore(state)
    resumed.begin()
    work(resumed, 7, 12)
    assert (tmp_path / "broken.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert resumed.scores == whole.scores and resumed.latest == whole.latest


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_text(""),
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-3]),
        lambda path: path.write_bytes(path.read_bytes().replace(b"loss,1", b"loss,7")),
        lambda path: path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n")),
        lambda path: path.write_bytes(b"\xff" + path.read_bytes()),
    ],
    ids=["empty", "gone", "cut", "another number", "line ends", "not UTF-8"],
)
def test_a_damaged_file_is_written_again_from_the_checkpoint(tmp_path, caplog, spoil):
    log = started(tmp_path / "m.csv", 1)
    log.add({"loss": torch.ones(1)})
    log.flush(1)
    whole, state = (tmp_path / "m.csv").read_bytes(), log.state()
    spoil(tmp_path / "m.csv")
    again = Log(tmp_path / "m.csv", NoTracker(), 1)
    again.restore(state)
    again.begin()
    assert (tmp_path / "m.csv").read_bytes() == whole
    assert f"{tmp_path / 'm.csv'} was damaged" in caplog.text
    assert again.sha256() == hashlib.sha256(whole).hexdigest()


def test_rows_after_the_checkpoint_go_without_a_word(tmp_path, caplog):
    log = started(tmp_path / "m.csv", 1)
    log.write(1, {"loss": [1.0]})
    whole, state = (tmp_path / "m.csv").read_bytes(), log.state()
    log.write(2, {"loss": [2.0]})
    again = Log(tmp_path / "m.csv", NoTracker(), 1)
    again.restore(state)
    again.begin()
    assert (tmp_path / "m.csv").read_bytes() == whole and not caplog.text


def test_trackers_see_the_mean_and_every_seed(tmp_path):
    recorder = Recorder()
    log = started(tmp_path / "m.csv", tracker=recorder)
    log.record_evaluation(5, [10.0, 20.0], None)
    assert recorder.written == [(5, {"return": 15.0, "return/seed0": 10.0, "return/seed1": 20.0})]


def test_tensorboard_files_hold_what_was_logged(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = TensorBoardTracker()
    tracker.start(tmp_path, {}, 0)
    tracker.write(3, {"score": 1.5})
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("score")] == [(3, 1.5)]


def test_a_full_disk_names_the_folder_of_tensorboard(tmp_path, monkeypatch):
    tracker = TensorBoardTracker()
    (tmp_path / "tensorboard").write_text("a file in its way")
    with pytest.raises(Mistake, match=f"could not write {tmp_path / 'tensorboard'}"):
        tracker.start(tmp_path, {}, 0)
    (tmp_path / "tensorboard").unlink()
    tracker.start(tmp_path, {}, 0)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tracker.writer, "add_scalar", full)
        with pytest.raises(Mistake, match=f"could not write {tmp_path / 'tensorboard'}: No space"):
            tracker.write(1, {"score": 1.0})
    tracker.close()


def test_a_disk_that_fills_up_later_shows_no_traceback_of_a_thread(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(threading, "excepthook", shown.append)
    before = threading.excepthook
    tracker = TensorBoardTracker()
    tracker.start(tmp_path, {}, 0)

    def full(data):
        raise OSError(errno.ENOSPC, "No space left on device")

    queue = tracker.writer.file_writer.event_writer._async_writer
    queue._writer.write = full
    with pytest.raises(Mistake, match=f"could not write {tmp_path / 'tensorboard'}: No space"):
        for update in range(2):
            tracker.write(update, {"score": 1.0})
            queue._worker.join(timeout=60)
    with pytest.raises(Mistake, match="No space"):
        tracker.close()
    assert not shown and threading.excepthook == before


def test_wandb_works_offline(tmp_path):
    tracker = WandbTracker(project="reverie", entity=None, group=None, mode="offline")
    tracker.start(tmp_path, {"seed": 0}, 0)
    tracker.write(1, {"score": 2.0})
    tracker.close()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_a_wandb_that_refuses_to_begin_is_told_with_a_remedy(tmp_path, monkeypatch):
    tracker = WandbTracker(project="reverie", entity=None, group=None, mode="online")

    def refuse(**settings):
        raise tracker.wandb.errors.UsageError("No API key configured.")

    monkeypatch.setattr(tracker.wandb, "init", refuse)
    with pytest.raises(Mistake, match=r"No API key configured.*set logger\.mode=offline"):
        tracker.start(tmp_path, {"seed": 0}, 0)


def test_an_unknown_wandb_mode_is_refused():
    with pytest.raises(ValueError, match="use online, offline or disabled"):
        WandbTracker(project="reverie", entity=None, group=None, mode="maybe")


@pytest.mark.parametrize("found", [b"", b"\xff\xfe", b"../../x", b"a b", b"x" * 1000])
def test_an_id_of_wandb_is_one(tmp_path, found):
    first = _wandb_id(tmp_path)
    assert _wandb_id(tmp_path) == first
    (tmp_path / "wandb-id.txt").write_bytes(found)
    with pytest.raises(Mistake, match=r"wandb-id.txt is damaged.*delete it"):
        _wandb_id(tmp_path)
