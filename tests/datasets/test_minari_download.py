"""One look at the remote tells a wrong id; only what was fetched here may be deleted."""

import os
import shutil
import time
from types import SimpleNamespace

import huggingface_hub
import minari
import pytest
from huggingface_hub.errors import RepositoryNotFoundError

from reverie.datasets.readers.minari import load
from reverie.mistake import Mistake
from tests.datasets.test_minari import buffers, options, write


class NotThere(RepositoryNotFoundError):
    def __init__(self):
        pass


@pytest.fixture(autouse=True)
def hub(monkeypatch):
    """The remote's listing: what `files` names, an error, or nothing of the namespace."""
    state = SimpleNamespace(files=["count-v0/data/metadata.json"], error=None, asked=[])

    def dataset_info(self, repository, timeout):
        state.asked.append(repository)
        if state.error:
            raise state.error
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in state.files])

    def never(*arguments, **keywords):
        raise AssertionError("Minari's client was asked, which retries for half a minute")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(minari, "download_dataset", never)
    return state


def fetch(root, id="toy/count-v0", **changes):
    return load(**options(root, id=id, download=True, **changes))


def test_an_id_that_the_remote_lacks_is_refused_after_one_look(tmp_path, hub):
    hub.files = ["count/medium-v0/data/metadata.json", "count/medium-v0/data/main_data.hdf5"]
    hub.files += ["namespace_metadata.json", "walk/expert-v1/data/metadata.json"]
    begun = time.monotonic()
    with pytest.raises(Mistake, match=r"toy/count/medum-v0 .*it has toy/count/medium-v0;") as found:
        fetch(tmp_path, "toy/count/medum-v0")
    assert "hf://farama-minari does not have it" in str(found.value)
    assert hub.asked == ["farama-minari/toy"]
    assert time.monotonic() - begun < 5
    with pytest.raises(Mistake, match="it has toy/count/medium-v0, toy/walk/expert-v1; correct"):
        fetch(tmp_path, "toy/zzz-v3")


def test_a_namespace_that_the_remote_lacks_is_said(tmp_path, hub):
    hub.error = NotThere()
    with pytest.raises(
        Mistake, match=r"does not have it, nor anything in toyy/; correct dataset.id"
    ):
        fetch(tmp_path, "toyy/count-v0")


def test_without_a_network_it_ends_at_once(tmp_path, hub):
    hub.error = OSError("name resolution\nfailed")
    with pytest.raises(Mistake, match=r"cannot be fetched: name resolution failed.*dataset\.path"):
        fetch(tmp_path)
    assert len(hub.asked) == 1
    assert list(tmp_path.iterdir()) == []


def test_another_remote_is_asked(tmp_path, hub, monkeypatch):
    hub.error = NotThere()
    with pytest.raises(Mistake, match="hf://elsewhere does not have it"):
        fetch(tmp_path, "hf://elsewhere/toy/count-v0")
    monkeypatch.setenv("MINARI_REMOTE", "hf://my-group")
    with pytest.raises(Mistake, match="hf://my-group does not have it"):
        fetch(tmp_path)
    assert hub.asked == ["elsewhere/toy", "my-group/toy"]


def test_a_failed_download_ends_in_one_line_and_restores_the_root(tmp_path, monkeypatch):
    seen = []

    def refuse(id, force_download):
        seen.append((id, os.environ["MINARI_DATASETS_PATH"]))
        raise RuntimeError("connection\nlost")

    monkeypatch.setattr(minari, "download_dataset", refuse)
    monkeypatch.setenv("MINARI_DATASETS_PATH", "/before")
    id = "hf://farama-minari/toy/count-v0"
    with pytest.raises(Mistake, match=r"connection lost.*dataset\.path"):
        fetch(tmp_path, id)
    assert seen == [(id, str(tmp_path))]
    assert os.environ["MINARI_DATASETS_PATH"] == "/before"


@pytest.fixture
def deliver(tmp_path, monkeypatch):
    """Lets Minari bring the dataset; gives whether each download was forced."""
    forced = []

    def bring(id, force_download):
        forced.append(force_download)
        shutil.rmtree(tmp_path / "toy", ignore_errors=True)
        write(tmp_path, buffers())

    monkeypatch.setattr(minari, "download_dataset", bring)
    return forced


def test_a_downloaded_dataset_is_loaded_and_may_be_fetched_again(tmp_path, deliver):
    assert len(fetch(tmp_path)) == 9
    file = tmp_path / "toy" / "count-v0" / "data" / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(Mistake, match=rf"delete {tmp_path}/toy/count-v0 to fetch it again"):
        fetch(tmp_path)
    (file.parent / "metadata.json").unlink()
    assert len(fetch(tmp_path)) == 9
    assert deliver == [False, True]


def test_what_an_interrupted_download_left_is_fetched_again(tmp_path, deliver):
    (tmp_path / "toy" / "count-v0" / "data").mkdir(parents=True)
    assert len(fetch(tmp_path)) == 9
    assert deliver == [True]


def test_files_of_the_users_in_the_place_of_a_dataset_are_left_alone(tmp_path, deliver):
    data = write(tmp_path, buffers())
    (data / "metadata.json").unlink()
    with pytest.raises(Mistake, match=r"not fetched from here, .* they are left alone"):
        fetch(tmp_path)
    assert (data / "main_data.hdf5").exists()
    assert deliver == []
