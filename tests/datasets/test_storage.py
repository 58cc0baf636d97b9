"""Rows on disk are the rows in memory, to the bit, and are made again where they are not whole."""

import io
import os
import signal

import h5py
import numpy as np
import pytest
import torch
from rich.console import Console

import reverie
from reverie import datasets
from reverie.datasets import arrays, cache, storage
from reverie.datasets.replay import MappedReplay, Replay, ResampledReplay
from reverie.datasets.transition import column_names
from reverie.mistake import Mistake
from reverie.training.run_directory import METRICS

ROWS = 400


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def log(tmp_path):
    """Without next observations, so that rows are left out, and with an action box."""
    rng = np.random.default_rng(0)
    path = tmp_path / "log.hdf5"
    ends = np.arange(1, ROWS + 1) % 50 == 0
    with h5py.File(path, "w") as file:
        file["observations"] = rng.standard_normal((ROWS, 3)).cumsum(0)  # float64
        file["actions"] = rng.uniform(-2, 2, (ROWS, 2)).astype(np.float32)
        file["rewards"] = rng.standard_normal(ROWS)
        file["terminals"] = ends & (np.arange(ROWS) % 100 < 50)
        file["timeouts"] = ends
    return path


def load(path, where="memmap", **more):
    return datasets.load(
        "file", path=str(path), action_low=-2.0, action_high=2.0, storage=where, **more
    )


def stored():
    return sorted((cache.cache_root() / storage.FOLDER).glob("*.npz"))


def require_same(one, other):
    for name in column_names(one.transitions):
        assert torch.equal(getattr(one.transitions, name), getattr(other.transitions, name)), name
    for name in ("truncated", "valid_next", "episode_starts"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    for name in ("name", "spec", "reference", "origin", "fingerprint"):
        assert getattr(one, name) == getattr(other, name), name


@pytest.mark.parametrize("small", [True, False], ids=["in parts", "at once"])
def test_rows_on_disk_are_those_in_memory(log, small, monkeypatch):
    expected = load(log, "memory")
    if small:
        monkeypatch.setattr(arrays, "AT_A_TIME", 100)
    data = load(log)
    assert data.mapped and not expected.mapped
    require_same(data, expected)
    vars(data).pop("fingerprint")
    assert data.fingerprint == expected.fingerprint  # of the rows as they lie there


def test_the_next_start_reads_nothing_again(log, monkeypatch):
    first = load(log)
    monkeypatch.setattr("reverie.datasets.readers.file.read_hdf5", None)
    require_same(load(log), first)


def test_another_file_or_another_setting_is_converted_anew(log):
    first = load(log)
    fewer = load(log, subset={"episodes": 3})
    require_same(fewer, load(log, "memory", subset={"episodes": 3}))
    with h5py.File(log, "r+") as file:
        file["rewards"][0] = 7.0
    os.utime(log, ns=(1, 1))  # however coarse the clock of the disk
    assert load(log).fingerprint not in (first.fingerprint, fewer.fingerprint)


@pytest.mark.parametrize("damage", ["bit", "end"])
def test_a_damaged_file_is_noticed_and_made_again(log, damage, caplog):
    expected = load(log).fingerprint
    [path] = stored()
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole if damage == "bit" else whole[:-5000])
    data = load(log)
    assert "making it again" in caplog.text
    vars(data).pop("fingerprint")
    assert data.fingerprint == expected


def test_a_conversion_that_is_killed_leaves_nothing_that_counts(log, monkeypatch):
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(cache, "seal", lambda file: os.kill(os.getpid(), signal.SIGKILL))
        load(log)
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert stored() == []
    require_same(load(log), load(log, "memory"))
    left = [path.name for path in stored()[0].parent.iterdir() if path.suffix != ".lock"]
    assert left == [stored()[0].name]


def test_a_full_disk_is_one_line(log, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(Mistake, match="No space left on device; free some space there or point"):
        load(log)


def test_a_cache_that_cannot_be_written_is_one_line(log, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(Mistake, match=r"is a file and no folder; point .*REVERIE_CACHE"):
        load(log)


def test_what_is_changed_in_memory_is_not_written(log):
    data = load(log)
    data.transitions.obs[:] = 0.0
    require_same(load(log), load(log, "memory"))


def test_batches_are_the_same_to_the_bit(log):
    drawn = []
    for where in ("memory", "memmap"):
        data = load(log, where)
        torch.manual_seed(3)
        replay = Replay.of(data.transitions, mapped=data.mapped)
        again = ResampledReplay(
            data.transitions,
            episode_starts=data.episode_starts,
            episode_lengths=data.episode_lengths,
            seeds=3,
            mapped=data.mapped,
        )
        assert isinstance(replay, MappedReplay) == data.mapped
        drawn.append([replay.draw(2, 50), again.draw(3, 500), replay.stored("reward")])
    for one, other in zip(*drawn, strict=True):
        assert torch.equal(one, other)


def test_a_bootstrap_draws_whole_episodes_as_often_as_they_were_chosen(log):
    data = load(log, "memory")
    torch.manual_seed(0)
    replay = ResampledReplay(
        data.transitions,
        episode_starts=data.episode_starts,
        episode_lengths=data.episode_lengths,
        seeds=1,
    )
    torch.manual_seed(0)
    chosen = torch.randint(len(data.episode_starts), (1, len(data.episode_starts)))[0]
    every = torch.cat(
        [
            torch.arange(first, first + length)
            for first, length in zip(
                data.episode_starts[chosen], data.episode_lengths[chosen], strict=True
            )
        ]
    )
    torch.manual_seed(1)
    drawn = replay.draw(1, 1000)[0]
    torch.manual_seed(1)
    row = every[torch.randint(2**62, (1, 1000))[0] % len(every)]
    assert torch.equal(drawn, Replay.of(data.transitions).layout.pack(data.transitions[row]))


def test_what_needs_all_rows_in_memory_is_refused_where_they_do_not_fit(log, monkeypatch):
    monkeypatch.setattr(storage, "free_memory", lambda: 1000)
    storage.require_memory(load(log, "memory"), 1.0, "the fit")  # they are there already
    with pytest.raises(Mistake, match=r"the fit holds all rows .*dataset\.subset\.fraction=0\."):
        storage.require_memory(load(log), 1.0, "the fit")


def test_chunks_and_given_arrays_are_refused(log):
    with pytest.raises(Mistake, match=r"chunks=2 makes new rows .* set dataset.storage=memory"):
        datasets.chunk(load(log), 2, discount=0.9)
    with pytest.raises(Mistake, match="storage=memmap would be too late"):
        datasets.load({"observations": np.zeros((4, 1))}, storage="memmap")
    with pytest.raises(Mistake, match=r"dataset\.storage=disk"):
        load(log, "disk")


SMALL = (
    *("dataset=file", "dataset.action_low=-2", "dataset.action_high=2", "updates=20"),
    *("batch_size=16", "log_every=5", "checkpoint_every=5", "probe_starts=4", "threads=1"),
    *("evaluate.every=10", "verdict.starts=4", "verdict.fqe.updates=4", "verdict.fqe.hidden=[8]"),
    *("verdict.doubly_robust.updates=0", "seeds=2", "agent.hidden=[8]", "value_gap.starts=2"),
)
MODEL = (
    *("world_model.hidden=[8]", "world_model.weight_decay=[0.0,0.0]", "world_model.max_epochs=1"),
    *("source.starts=8", "source.every=10", "source.horizon=2"),
)


class Killed(BaseException):
    """Ends a process where a test says so."""


def stop(update, episodes):
    raise Killed


def train(log, where, directory, *more, killed=False):
    """What a run writes and concludes; one that is killed on its way goes on from a checkpoint."""
    made = (*SMALL, f"dataset.path={log}", f"dataset.storage={where}", *more)
    console = Console(file=io.StringIO())
    if killed:
        run = reverie.make(*made)
        run.on_evaluation = stop
        with pytest.raises(Killed):
            run.train(directory, console)
    run = reverie.make(*made)
    assert run.data.mapped == (where == "memmap")
    results = run.train(directory, console)
    return (directory / METRICS).read_bytes(), results.summary["verdict"]


@pytest.mark.parametrize(
    "method",
    [("algorithm=td3_bc",), pytest.param(("algorithm=mopo", *MODEL), marks=pytest.mark.slow)],
    ids=["without a model", "with one"],
)
def test_training_and_resuming_are_the_same_to_the_bit(log, tmp_path, method):
    expected = train(log, "memory", tmp_path / "memory", *method)
    assert train(log, "memmap", tmp_path / "memmap", *method, killed=True) == expected
