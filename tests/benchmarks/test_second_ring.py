"""The command that runs the small claims, and the parts that only its modules have."""

import sys
from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure

from reverie.benchmarks.claims.report import Claim, Findings
from reverie.benchmarks.claims.second_ring import __main__ as second_ring


def claim(holds):
    found = Findings([Claim("a", "b", "c", holds)], {"seen": holds}, {"curve": Figure()})
    return SimpleNamespace(TITLE="A claim", measure=lambda quick: found)


def run(monkeypatch, folder, *names):
    monkeypatch.setattr(second_ring, "modules", lambda: {"one": claim(True), "two": claim(False)})
    monkeypatch.setattr(sys, "argv", ["second_ring", "--output", str(folder), *names])
    return second_ring.main()


def test_a_part_leaves_the_files_of_the_others(monkeypatch, tmp_path):
    assert run(monkeypatch, tmp_path) == 1  # one of them fails
    recorded = (tmp_path / "second_ring-two.json").read_bytes()
    (tmp_path / "second_ring-one.json").unlink()
    assert run(monkeypatch, tmp_path, "one") == 0
    assert (tmp_path / "second_ring-two.json").read_bytes() == recorded
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        f"second_ring-{name}" for name in ("one.json", "two.json", "one-curve.png", "two-curve.png")
    }


def test_unknown_names_are_refused_before_anything_runs(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        run(monkeypatch, tmp_path, "one", "three")
    assert error.value.code == 2 and "three is none of one, two" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_every_module_with_a_measure_is_a_claim():
    for name, module in second_ring.modules().items():
        assert isinstance(module.TITLE, str) and module.__doc__, name
