"""Updates a second of whole runs, beside those of an earlier checkout."""

import sys
from pathlib import Path

import pytest

from reverie.benchmarks.speed import since
from reverie.mistake import Mistake


def rows(**now: float) -> list[dict]:
    """Runs of presets that made 100 updates a second before."""
    return [
        {"preset": preset, "load": "idle", "compiled": False, "before": 100.0, "now": rate}
        for preset, rate in now.items()
    ]


def test_the_last_whole_row_counts(tmp_path):
    file = tmp_path / "metrics.csv"
    assert since.last_row(file) is None
    file.write_text("update,seed,metric,value\n50,0,a,1\n")
    assert since.last_row(file) is None
    file.write_text("update,seed,metric,value\n50,0,a,1\n100,0,a,1\n15")
    found = since.last_row(file)
    assert found is not None
    assert found == (100, file.stat().st_mtime)


@pytest.mark.parametrize(("slowest", "holds"), [(94.0, False), (96.0, True)])
def test_the_slowest_preset_decides(slowest, holds):
    (claim,) = since.claim_all(rows(iql=300.0, bc=slowest, cql=200.0))
    assert claim.holds is holds
    assert "(bc); median 2.00" in claim.measured
    told = since.tabulate(rows(iql=300.0))
    assert told["rows"] == [["iql", "100 -> 300 (3.00)"]]


def test_a_run_that_ends_says_why(tmp_path):
    (tmp_path / "train.py").write_text("raise SystemExit('error: no such preset')")
    with pytest.raises(Mistake, match="algorithm=bc: it ended: error: no such preset"):
        since.updates_per_second(tmp_path, "bc", compiled=False, seconds=1)


def test_a_run_is_timed_by_its_rows_and_killed(tmp_path):
    (tmp_path / "train.py").write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        "run = Path(next(each for each in sys.argv if each.startswith('run_dir='))[8:])\n"
        "run.mkdir()\n"
        "for update in range(100, 10**9, 100):\n"
        "    with (run / 'metrics.csv').open('a') as file: file.write(f'{update},0,a,1\\n' * 2)\n"
        "    time.sleep(0.01)\n"
    )
    rate = since.updates_per_second(tmp_path, "bc", compiled=False, seconds=0.2)
    assert 0 < rate < 100 / 0.01


def test_a_folder_without_train_py_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["since", str(tmp_path)])
    with pytest.raises(Mistake, match="holds no train"):
        since.main()


def test_every_preset_is_there():
    root = Path(since.reverie.__file__).parents[1]
    assert all((root / "conf" / "algorithm" / f"{name}.yaml").is_file() for name in since.PRESETS)
