"""Minari datasets that we write: what comes back, and that a half of one is never seen."""

import errno
import json

import numpy as np
import pytest
from filelock import FileLock, Timeout

from reverie.datasets import minari_writer
from reverie.datasets.minari_writer import (
    episode_ends,
    provenance_of,
    remove,
    require_writable,
    root_of,
    write,
)
from reverie.datasets.readers.minari import load
from reverie.envs.make import spec_of
from reverie.envs.specs import Reference
from reverie.mistake import Mistake

ID = "tests/pendulum/mixed-v0"
MADE = {"run": "x", "kind": "mixed", "dataset": {"list": [1, 2]}, "settings": {}}
LIMIT = 3


@pytest.fixture
def spec():
    return spec_of("Pendulum-v1", env_kwargs={"g": 9.0}, physics="as-is", max_episode_steps=LIMIT)


@pytest.fixture
def arrays():
    """Three episodes of 3, 2 and 2 steps: time limit, termination, end of the recording."""
    obs = np.arange(30, dtype=np.float32).reshape(10, 3)
    rows = [0, 1, 2, 4, 5, 7, 8]
    return {
        "obs": obs[rows],
        "action": np.linspace(-2, 2, 7, dtype=np.float32)[:, None],
        "reward": np.arange(7, dtype=np.float32),
        "next_obs": obs[[row + 1 for row in rows]],
        "terminated": np.array([0, 0, 0, 0, 1, 0, 0], bool),
        "truncated": np.zeros(7, bool),
    }


def put(root, arrays, spec, id=ID):
    write(
        root,
        id,
        arrays,
        spec=spec,
        reference=Reference(-5.0, 15.0, "test"),
        algorithm="none",
        description="test",
        requirements=["gymnasium==1"],
        provenance=MADE,
    )


def read(root, id=ID):
    return load(
        name=None,
        id=id,
        path=str(root),
        download=False,
        env_id="recorded",
        env_kwargs={},
        physics="auto",
        obs_keys=None,
        reference="recorded",
        clip_actions=False,
    )


def test_what_is_written_comes_back(tmp_path, arrays, spec):
    root = root_of(str(tmp_path / "new"))
    require_writable(root)
    put(root, arrays, spec)
    data = read(root)
    rows = data.transitions
    for name in ("obs", "reward", "next_obs", "terminated"):
        np.testing.assert_array_equal(getattr(rows, name), arrays[name])
    np.testing.assert_allclose(2 * rows.action, arrays["action"], atol=1e-6)
    assert data.episode_starts.tolist() == [0, 3, 5]
    assert data.truncated.nonzero().flatten().tolist() == [2, 6]  # a termination is none
    assert data.valid_next.all()
    assert (data.reference.low, data.reference.high) == (-5.0, 15.0)
    assert data.spec.max_episode_steps == LIMIT and data.spec.env_kwargs == {"g": 9.0}
    assert provenance_of(root, ID) == MADE
    assert (root / "tests" / "namespace_metadata.json").is_file()
    remove(root, ID)
    assert provenance_of(root, ID) is None and not list(root.glob(".*"))


def test_an_episode_ends_where_the_limit_says_though_nothing_else_shows_it(arrays):
    assert episode_ends(arrays, None).nonzero()[0].tolist() == [2, 4, 6]
    # A reset that leads to where the last episode ended.
    arrays["obs"][3] = arrays["next_obs"][2]
    assert episode_ends(arrays, None).nonzero()[0].tolist() == [4, 6]
    assert episode_ends(arrays, LIMIT).nonzero()[0].tolist() == [2, 4, 6]


def test_a_half_written_dataset_has_no_name(tmp_path, arrays, spec, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(minari_writer, "_keep_namespaces", full)  # the last thing before its name
    with pytest.raises(Mistake, match=r"could not write dataset tests/pendulum/mixed-v0 .* space"):
        put(tmp_path, arrays, spec)
    assert provenance_of(tmp_path, ID) is None
    monkeypatch.undo()

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    monkeypatch.setattr(minari_writer, "_keep_namespaces", killed)
    monkeypatch.setattr(minari_writer.shutil, "rmtree", lambda *_, **__: None)
    with pytest.raises(Killed):
        put(tmp_path, arrays, spec)
    monkeypatch.undo()
    assert list(tmp_path.glob(".reverie-*/**/main_data.hdf5"))
    with pytest.raises(Mistake, match=r"found there: none"):
        read(tmp_path)
    put(tmp_path, arrays, spec)
    assert len(read(tmp_path)) == 7 and not list(tmp_path.glob(".reverie-*"))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device;"),
        (
            RuntimeError("flush failed (errno = 28, error message = 'No space left on device', 4)"),
            "No space left on device;",
        ),
        (RuntimeError("of another kind"), None),
    ],
)
def test_a_full_disk_is_told_as_the_system_says_it(
    tmp_path, arrays, spec, monkeypatch, error, told
):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(minari_writer, "_create", fail)
    with pytest.raises(RuntimeError if told is None else Mistake) as caught:
        put(tmp_path, arrays, spec)
    assert told is None or f"could not write dataset {ID} to {tmp_path}: {told}" in str(
        caught.value
    )
    assert not list(tmp_path.iterdir())


def test_mistakes_are_named(tmp_path, arrays, spec):
    (tmp_path / "file").touch()
    with pytest.raises(Mistake, match="it is a file and no folder; give another folder with path="):
        require_writable(tmp_path / "file")
    with pytest.raises(ValueError, match="malformed"):
        put(tmp_path, arrays, spec, id="no version")
    (tmp_path / "somebody" / "elses-v0").mkdir(parents=True)
    assert provenance_of(tmp_path, "somebody/elses-v0") == {}


@pytest.mark.parametrize("text", ["{}", '{"dataset_id": "x"}', "damaged"])
def test_a_dataset_that_no_collection_made_is_never_replaced(tmp_path, text):
    metadata = tmp_path / "mine" / "random-v0" / "data" / "metadata.json"
    minari_writer.require_made_here(tmp_path, "mine/random-v0")  # there is none
    metadata.parent.mkdir(parents=True)
    metadata.write_text(text)
    with pytest.raises(Mistake, match="was not made by this command, so it is left alone"):
        minari_writer.require_made_here(tmp_path, "mine/random-v0")
    metadata.write_text(json.dumps({minari_writer.PROVENANCE: MADE}))
    minari_writer.require_made_here(tmp_path, "mine/random-v0")


@pytest.mark.parametrize("words", ["a run of mine", ["run"], {"run": "abc", "plant": "north"}, 3])
def test_words_of_somebody_else_about_the_making_are_not_ours(tmp_path, words):
    metadata = tmp_path / "mine" / "random-v0" / "data" / "metadata.json"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(json.dumps({minari_writer.PROVENANCE: words}))
    for refuse in (minari_writer.require_made_here, remove):
        with pytest.raises(Mistake, match="was not made by this command"):
            refuse(tmp_path, "mine/random-v0")
    assert metadata.is_file()


def test_a_dataset_to_which_somebody_added_files_is_not_deleted(tmp_path, arrays, spec):
    put(tmp_path, arrays, spec)
    notes = tmp_path / ID / "data" / "notes.txt"
    notes.write_text("measured on Monday")
    minari_writer.require_made_here(tmp_path, ID)  # it may be read and gone on with
    with pytest.raises(
        Mistake, match=r"notes\.txt is no file of a dataset.*move that file"
    ) as told:
        remove(tmp_path, ID)
    assert "\n" not in str(told.value) and notes.is_file()
    notes.unlink()
    remove(tmp_path, ID)
    assert not (tmp_path / ID).exists()


def test_two_processes_do_not_write_one_dataset_at_once(tmp_path, arrays, spec, monkeypatch):
    create, tried = minari_writer._create, []

    def meanwhile(*arguments):
        lock = FileLock(f"{minari_writer._claim(tmp_path, ID)}.lock", timeout=0)
        with pytest.raises(Timeout):
            lock.acquire()
        tried.append(lock)
        create(*arguments)

    monkeypatch.setattr(minari_writer, "_create", meanwhile)
    put(tmp_path, arrays, spec)
    assert len(tried) == 1
    with tried[0]:  # free again
        pass
    arrays["reward"] += 1
    with pytest.raises(Mistake, match=f"dataset {ID} came to be in .* meanwhile"):
        put(tmp_path, arrays, spec)
    assert read(tmp_path).transitions.reward[0] == 0
