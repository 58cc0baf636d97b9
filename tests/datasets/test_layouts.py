"""Files in the layouts of other libraries: read as what they mean, or refused with what to do."""

import numpy as np
import pytest

from reverie.datasets.readers.file import load
from reverie.mistake import Mistake
from tests.datasets.test_file import options, recording, write

SUFFIXES = (".hdf5", ".npz")


@pytest.fixture
def plain(tmp_path):
    return load(**options(write(tmp_path / "plain.npz", recording()))).fingerprint


def of_torchrl(mark="/", group=""):
    """Flags of the step before lie beside the observations, all else that a step leads to apart."""
    columns = recording()
    terminals, timeouts = columns["terminals"], columns["timeouts"]
    after = {
        "observation": columns["next_observations"],
        "reward": columns["rewards"][:, None],
        "terminated": terminals[:, None],
        "truncated": timeouts[:, None],
        "done": (terminals | timeouts)[:, None],
    }
    before = {"observation": columns["observations"], "action": columns["actions"]}
    before |= {name: np.zeros((9, 1), bool) for name in ("terminated", "truncated", "done")}
    after = {f"next{mark}{name}": column for name, column in after.items()}
    return {group + name: column for name, column in (before | after).items()}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("mark", ["/", ".", "_"])
@pytest.mark.parametrize("named", [(), ("rewards",), ("terminals",), ("rewards", "observations")])
def test_torchrls_rewards_and_ends_are_those_of_next(tmp_path, plain, suffix, mark, named):
    arrays = {"rewards": "reward", "terminals": "terminated"}
    columns = {key: f"next{mark}{arrays[key]}" for key in named if key in arrays}
    columns |= {"observations": "observation"} if "observations" in named else {}
    path = write(tmp_path / f"log{suffix}", of_torchrl(mark))
    assert load(**options(path, columns=columns)).fingerprint == plain


def test_torchrls_layout_in_a_group_and_in_a_group_of_another_name(tmp_path, plain):
    path = write(tmp_path / "log.hdf5", of_torchrl(group="data/"))
    for name in ("data/next/reward", "data/next/observation"):
        column = "rewards" if name.endswith("reward") else "next_observations"
        assert load(**options(path, columns={column: name})).fingerprint == plain
    path = write(tmp_path / "other.hdf5", of_torchrl("_step/"))
    named = {"rewards": "next_step/reward"}
    assert load(**options(path, columns=named)).fingerprint == plain


def test_rewards_in_next_and_beside_the_observations_are_refused_until_one_is_named(
    tmp_path, plain
):
    columns = of_torchrl() | {"reward": np.zeros(9)}
    path = write(tmp_path / "log.hdf5", columns)
    with pytest.raises(Mistake, match=r"next/reward and reward.*columns=\{rewards: next/reward\}"):
        load(**options(path))
    assert load(**options(path, columns={"rewards": "next/reward"})).fingerprint == plain
    flat = recording() | {"next_rewards": np.zeros(9), "next_terminals": np.ones(9)}
    assert load(**options(write(tmp_path / "flat.npz", flat))).fingerprint == plain


def test_a_group_next_may_hold_nothing_but_the_next_observations(tmp_path, plain):
    columns = recording()
    columns["next/observations"] = columns.pop("next_observations")
    assert load(**options(write(tmp_path / "log.hdf5", columns))).fingerprint == plain


def test_a_file_that_d3rlpy_wrote_is_called_so(tmp_path):
    episode = {key: recording()[key] for key in ("observations", "actions", "rewards")}
    columns = {
        f"{key}_{number}": column
        for number in range(12)
        for key, column in (episode | {"terminated": False}).items()
    }
    path = write(tmp_path / "log.h5", columns | {"num_episodes": 12})
    told = r"as d3rlpy writes them; .*make\(dataset=.*from_d3rlpy\(d3rlpy.*open\('.*log\.h5', 'rb'"
    with pytest.raises(Mistake, match=told):
        load(**options(path))
