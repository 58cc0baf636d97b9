"""A fit that was killed goes on from what it left in the cache, and leaves nothing behind."""

import pytest
import torch

from reverie.training.fitting import fit_or_load
from reverie.world_models.base import Fitted


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


def fitted(model, folder):
    places = dict(cache=folder / "cache", own=folder / "own.pt", given=None)
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
