"""A fit that was killed goes on from what it left in the cache, and leaves nothing behind."""

import os
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock

from reverie.mistake import Mistake
from reverie.training.files import load_tensors, save_tensors
from reverie.training.fitting import _warn_of_lost_columns, fit_or_load, load_weights
from reverie.world_models.base import Fitted, WorldModel
from reverie.world_models.sindy.model import SINDy


class Counting(Fitted):
    """Counts to ten; `dies_at` kills the fit after it has written its state."""

    def __init__(self, dies_at=0):
        super().__init__()
        self.register_buffer("total", torch.zeros(()))
        self.dies_at = dies_at

    def keep_partial_fits(self, read, write):
        self.read, self.write = read, write

    def fit(self, data, progress=None):
        state = self.read() or {"done": 0}
        self.began_at = state["done"]
        for done in range(self.began_at + 1, 11):
            self.write({"done": done})
            if done == self.dies_at:
                raise KeyboardInterrupt
        self.total.fill_(10)
        return {"done": 10}

    def signature(self):
        return {"counts": 10}


class Data:
    name, fingerprint = "data", "abc"


def fitted(model, folder, given=None):
    places = dict(cache=folder / "cache", own=folder / "own.pt", given=given)
    device = torch.device("cpu")
    return fit_or_load(model, Data(), group="generator", device=device, progress=None, **places)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_killed_fit_goes_on_and_a_damaged_one_starts_over(tmp_path, damaged):
    with pytest.raises(KeyboardInterrupt):
        fitted(Counting(dies_at=7), tmp_path)
    (partial,) = (tmp_path / "cache").glob("*.partial.pt")
    if damaged:
        partial.write_bytes(b"nothing")
    model = Counting()
    described, reused = fitted(model, tmp_path)
    assert described == {"done": 10} and not reused
    assert model.began_at == (0 if damaged else 7) and not partial.exists()
    # Another run finds the finished one and does not fit at all.
    (tmp_path / "own.pt").unlink()
    again = Counting(dies_at=1)
    assert fitted(again, tmp_path) == ({"done": 10}, True) and again.total == 10


def test_a_cached_model_of_an_earlier_version_is_fitted_again_with_a_notice(tmp_path, caplog):
    fitted(Counting(), tmp_path)
    (cached,) = (tmp_path / "cache").glob("*.pt")
    torch.save({**torch.load(cached, weights_only=True), "format": 1}, cached)
    (tmp_path / "own.pt").unlink()
    described, reused = fitted(Counting(), tmp_path)
    assert described == {"done": 10} and not reused
    assert "fitting again" in caplog.text and "another version of Reverie" in caplog.text
    (tmp_path / "own.pt").unlink()
    assert fitted(Counting(dies_at=1), tmp_path) == ({"done": 10}, True)


def flip(path):
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 4
    path.write_bytes(whole)


def test_a_damaged_cache_is_fitted_again_with_a_notice_that_names_it_alone(tmp_path, caplog):
    fitted(Counting(), tmp_path)
    (cached,) = (tmp_path / "cache").glob("*.pt")
    other = cached.with_name("other.pt")
    other.write_bytes(b"of another fit")
    flip(cached)
    (tmp_path / "own.pt").unlink()
    assert fitted(Counting(), tmp_path) == ({"done": 10}, False)
    assert "fitting again" in caplog.text and str(cached) in caplog.text
    (tmp_path / "own.pt").unlink()
    assert fitted(Counting(dies_at=1), tmp_path) == ({"done": 10}, True)
    assert other.read_bytes() == b"of another fit"


def test_a_cache_that_nobody_can_write_is_read(tmp_path, monkeypatch):
    fitted(Counting(), tmp_path)
    (tmp_path / "own.pt").unlink()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(FileLock, "acquire", lambda *_, **__: pytest.fail("nothing can be written"))
    assert fitted(Counting(dies_at=1), tmp_path) == ({"done": 10}, True)
    assert (tmp_path / "own.pt").is_file()


def test_a_folder_is_told_from_a_file_that_is_not_there(tmp_path):
    with pytest.raises(Mistake, match=r"generator\.path=.* is a folder; .*/generator\.pt of a run"):
        fitted(Counting(), tmp_path, given=tmp_path)


def test_a_file_that_is_not_there_is_told_with_its_setting(tmp_path):
    with pytest.raises(Mistake, match=r"generator\.path=.*gone\.pt does not exist"):
        fitted(Counting(), tmp_path, given=tmp_path / "gone.pt")


def test_a_kind_that_begins_with_a_vowel_is_named_as_one(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"not a file of ours")
    with pytest.raises(Mistake, match="cannot be read as an inverse model"):
        load_tensors(tmp_path / "a.pt", "inverse model")


def test_damage_where_somebody_chose_the_file_is_an_error(tmp_path):
    fitted(Counting(), tmp_path)
    flip(tmp_path / "own.pt")
    with pytest.raises(Mistake, match=r"own\.pt cannot be read as a generator"):
        fitted(Counting(), tmp_path)
    with pytest.raises(Mistake, match=r"own\.pt cannot be read as a generator.*give another path"):
        fitted(Counting(), tmp_path / "elsewhere", given=tmp_path / "own.pt")
    # What the message says of a run that is not finished.
    (tmp_path / "own.pt").unlink()
    assert fitted(Counting(dies_at=1), tmp_path) == ({"done": 10}, True)


@pytest.mark.parametrize(
    "change",
    [
        {"state": None},
        {"state": {}},
        {"state": {"total": torch.zeros(3)}},
        {"state": {"total": 1}},
        {"signature": None},
        {"signature": [1]},
        {"described": 3},
        *({missing: ...} for missing in ("state", "signature", "fitted_on", "described")),
    ],
    ids=str,
)
def test_a_whole_file_that_somebody_else_has_written_is_no_model(tmp_path, change):
    fitted(Counting(), tmp_path)
    (cached,) = (tmp_path / "cache").glob("*.pt")
    record = load_tensors(cached, "generator") | change
    record = {name: value for name, value in record.items() if value is not ...}
    for path in (cached, tmp_path / "own.pt"):
        save_tensors(path, "generator", record)
    with pytest.raises(Mistake, match=r"own\.pt (is damaged|was fitted)"):
        fitted(Counting(), tmp_path)
    if "state" in change:
        with pytest.raises(Mistake, match=r"own\.pt is damaged \(its contents are not those of a"):
            load_weights(Counting(), tmp_path / "own.pt", "generator", torch.device("cpu"))
    (tmp_path / "own.pt").unlink()
    assert fitted(Counting(), tmp_path) == ({"done": 10}, False)


def test_what_describes_the_fit_of_a_world_model_can_be_drawn(tmp_path):
    class Model(Counting, WorldModel):
        def step(self, obs, action, candidates=1, state=None):
            raise NotImplementedError

    fitted(Model(), tmp_path)
    own = tmp_path / "own.pt"
    record = load_tensors(own, "generator")
    save_tensors(own, "generator", record | {"described": {"holdout_loss": [3]}})
    with pytest.raises(Mistake, match=r"own\.pt is damaged .*its holdout_loss is \[3\]"):
        fitted(Model(), tmp_path)
    save_tensors(own, "generator", record | {"described": {"holdout_loss": [[3.0, None]]}})
    assert fitted(Model(), tmp_path)[1]


def test_what_the_gate_of_equations_says_is_no_damage(tmp_path):
    """A killed run of `world_model=sindy` takes its own model up again."""

    class Equations(Counting, WorldModel):
        def fit(self, data, progress=None):
            gate = {"steps": 50, "segments": 3, "median": None, "limit": 0.3, "alarm": True}
            return super().fit(data, progress) | {"open_loop": gate}

        def step(self, obs, action, candidates=1, state=None):
            raise NotImplementedError

    described, _ = fitted(Equations(), tmp_path)
    assert fitted(Equations(), tmp_path) == (described, True)
    record = load_tensors(tmp_path / "own.pt", "generator")
    described["open_loop"]["median"] = "far"
    save_tensors(tmp_path / "own.pt", "generator", record | {"described": described})
    with pytest.raises(Mistake, match=r"own\.pt is damaged .*its open_loop\.median is 'far'"):
        fitted(Equations(), tmp_path)


class Diverging(Counting):
    """Ends without a number."""

    def fit(self, data, progress=None):
        described = super().fit(data, progress)
        self.total.fill_(torch.nan)
        return described


def test_a_fit_that_diverged_is_refused_and_not_kept(tmp_path, caplog):
    with pytest.raises(Mistake, match=r"not finite \(total\).*learning rates under generator"):
        fitted(Diverging(), tmp_path)
    assert not list(tmp_path.rglob("*.pt"))
    fitted(Counting(), tmp_path)
    (cached,) = (tmp_path / "cache").glob("*.pt")
    record = load_tensors(cached, "generator")
    record["state"]["total"].fill_(torch.nan)
    for path in (cached, tmp_path / "own.pt"):
        save_tensors(path, "generator", record)
    with pytest.raises(Mistake, match=r"own\.pt holds weights that are not finite"):
        fitted(Counting(), tmp_path)
    (tmp_path / "own.pt").unlink()
    assert fitted(Counting(), tmp_path) == ({"done": 10}, False)
    assert "fitting again" in caplog.text


def test_columns_that_a_world_model_does_not_predict_are_told(caplog):
    data = Data()
    data.spec = SimpleNamespace(obs_labels=("gap", "speed"))
    _warn_of_lost_columns(WorldModel, data, [[0.9, None], [1.0, 0.2]])
    assert not caplog.records
    _warn_of_lost_columns(WorldModel, data, [[0.9, 1.2], [0.3, 26.1]])
    _warn_of_lost_columns(SINDy, data, [[1.2, 0.1], [1.3, 0.1]])
    network, equations = (record.getMessage() for record in caplog.records)
    assert "predicts speed (26.1) worse than a constant change would" in network
    assert "world_model.max_epochs" in network
    # Equations have no epochs.
    assert "world_model.max_epochs" not in equations
    assert "world_model.degree" in equations
