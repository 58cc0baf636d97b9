"""Rows without an action: kept where asked for, counted, and refused by what learns."""

import logging

import numpy as np
import pytest
import torch

from reverie import datasets
from reverie.datasets.build import build
from reverie.datasets.check import report
from reverie.datasets.check.report import problems
from reverie.datasets.transforms import fill_actions, hide_actions, stack, transform
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.training.mixing import mix
from tests.datasets.tables import ROWS, log

SPEC = Spec(env_id=None, obs_dim=1, action_dim=2, action_low=(0.0, -1.0), action_high=(4.0, 1.0))
COUNT = 40


def make(missing=(), value=np.nan, **changes):
    """Four episodes of ten rows, some of them without their first action."""
    rng = np.random.default_rng(0)
    action = np.stack([rng.uniform(0, 4, COUNT), rng.uniform(-1, 1, COUNT)], 1)
    action[list(missing), 0] = value
    columns = {
        "name": "toy",
        "spec": SPEC,
        "obs": rng.normal(size=(COUNT, 1)).cumsum(0),
        "action": action,
        "reward": rng.normal(size=COUNT),
        "terminated": np.zeros(COUNT, bool),
        "truncated": np.arange(COUNT) % 10 == 9,
        "next_obs": rng.normal(size=(COUNT, 1)),
        "reference": None,
        "origin": {},
        "clip_actions": False,
        "missing_actions": True,
    }
    return build(**{**columns, **changes})


def test_rows_without_an_action_are_kept_and_marked():
    data = make(missing=(3, 4, 30))
    assert data.action_missing.nonzero().flatten().tolist() == [3, 4, 30]
    assert data.transitions.action[[3, 4, 30]].tolist() == [[0.0, 0.0]] * 3  # inside any box
    assert make().action_missing is None
    # Without next observations the last row of an episode is left out, with its mark.
    shorter = make(missing=(3, 9, 10, 30), next_obs=None)
    assert shorter.action_missing.nonzero().flatten().tolist() == [3, 9, 27]


def test_without_being_asked_for_they_are_refused_with_what_helps():
    with pytest.raises(Mistake, match=r"action 3 NaN.*or let the missing actions be inferred, inv"):
        make(missing=(3, 4, 30), missing_actions=False)
    with pytest.raises(Mistake, match="1 Inf in 1 rows") as error:
        make(missing=(3,), value=np.inf)
    assert "inferred" not in str(error.value)


def test_the_fingerprint_covers_which_actions_are_missing():
    complete, some, others = make(), make(missing=(3, 4)), make(missing=(3, 5))
    middle = make(missing=(3, 4), value=2.0)
    assert make(missing_actions=False).fingerprint == complete.fingerprint
    hidden = hide_actions(middle, torch.arange(COUNT) == 3)
    prints = {each.fingerprint for each in (complete, some, others, middle, hidden)}
    assert len(prints) == 5
    assert hide_actions(middle, np.arange(COUNT) == 3).fingerprint == hidden.fingerprint
    for wrong in ([3], np.zeros(5, bool)):
        with pytest.raises(Mistake, match="rows must be true or false for each of the"):
            hide_actions(middle, wrong)


def test_a_part_and_the_disk_keep_the_marks(tmp_path, monkeypatch):
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path))
    part = make(missing=range(12), subset={"episodes": 2, "fraction": None, "seed": 1})
    whole = make(missing=range(12))
    episodes = [
        i for i in range(4) if (whole.transitions.obs[10 * i] == part.transitions.obs).any()
    ]
    expected = torch.cat([whole.action_missing[10 * i : 10 * i + 10] for i in episodes])
    assert torch.equal(part.action_missing, expected)
    arrays = {
        "observations": np.arange(30.0)[:, None],
        "actions": np.where(np.arange(30) % 3 == 0, np.nan, 0.5)[:, None],
        "rewards": np.zeros(30),
        "terminals": np.zeros(30),
        "timeouts": np.arange(30) % 10 == 9,
    }
    np.savez(tmp_path / "log.npz", **arrays)
    asked = {"path": str(tmp_path / "log.npz"), "missing_actions": True}
    memory, disk = (datasets.load("file", storage=where, **asked) for where in ("memory", "memmap"))
    assert memory.action_missing.sum() == 9  # the last rows, of which one had none, are left out
    assert torch.equal(memory.action_missing, disk.action_missing)
    assert memory.fingerprint == disk.fingerprint
    with pytest.raises(Mistake, match=r"set dataset\.storage=memory"):
        fill_actions(disk, torch.zeros(9, 1), torch.zeros(9, dtype=torch.bool), [None])


def test_a_table_with_gaps_in_its_actions_is_cut_or_kept(caplog):
    caplog.set_level(logging.WARNING)
    frame = log()
    frame.loc[10:19, "action [-]"] = np.nan
    frame.loc[70, "level [cm]"] = np.nan
    cut = datasets.load(frame)
    told = [record.getMessage() for record in caplog.records]
    assert any("10 rows left out have no action" in line for line in told)
    kept = datasets.load(frame, missing_actions=True)
    assert cut.action_missing is None and kept.action_missing.sum() == 10
    assert len(kept) == len(cut) + 11  # the row before the gap has a successor again
    assert kept.episode_lengths[0] == ROWS - 1 and len(kept.episode_lengths) == 5
    # Bounds are those of recorded actions.
    assert kept.spec.action_low == cut.spec.action_low
    with pytest.raises(Mistake, match=r"action \[-\] has no value in any row.*: record some"):
        datasets.load(frame.assign(**{"action [-]": np.nan}), missing_actions=True)
    # The last row of an episode is left out, and its action with it.
    ends = frame["episode"] != frame["episode"].shift(-1)
    lasts = frame.assign(**{"action [-]": frame["action [-]"].where(ends)})
    with pytest.raises(Mistake, match=r"no row that another one follows holds action \[-\]"):
        datasets.load(lasts, missing_actions=True)


def test_what_learns_refuses_them_and_names_the_remedy():
    data = make(missing=(3, 4))
    for learn in (
        lambda: mix(data, seeds=1, batch_size=4),
        lambda: transform(data, {"history": 2}, 1.0),
    ):
        with pytest.raises(Mistake, match=r"toy: 2 of 40 rows have no action.*inverse_model=ens"):
            learn()
    mix(make(), seeds=1, batch_size=4)


def test_filled_data_say_which_actions_nobody_recorded():
    data = make(missing=(3, 4))
    proposed = torch.tensor([[0.5, 0.2], [2.0, -0.1]])
    filled = fill_actions(data, proposed, torch.tensor([True, False]), [0.9, None])
    assert filled.action_missing is None
    torch.testing.assert_close(filled.transitions.action[3:5], proposed.clamp(-1, 1))
    rest = [row for row in range(COUNT) if row not in (3, 4)]
    assert torch.equal(filled.transitions.action[rest], data.transitions.action[rest])
    assert filled.inferred.describe() == {"rows": 2, "unsure": 1, "r2": [0.9, None]}
    assert filled.inferred.unsure.nonzero().flatten().tolist() == [3]
    assert (
        filled.origin["inferred actions"]
        == "2 of 40 rows, 1 of them unsure, R2 0.900 on recorded ones"
    )
    assert stack(filled, 2, 1).recorded.inferred is filled.inferred
    with pytest.raises(Mistake, match="transformed already"):
        hide_actions(stack(filled, 2, 1), torch.ones(COUNT, dtype=torch.bool))


def test_check_counts_them_and_describes_the_others():
    data = make(missing=range(20))
    found, whole = report(data), report(make())
    assert found.without_action == 20 and whole.without_action == 0
    assert any("20 of 40 rows have no action" in line for line in found.warnings)
    recorded = data.transitions.action[20:, 1]
    assert found.columns[2].std == pytest.approx(recorded.std(correction=0).item(), rel=1e-5)
    assert not problems(data)
