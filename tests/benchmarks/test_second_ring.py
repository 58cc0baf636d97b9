"""The command that runs the small claims, and the parts that only its modules have."""

import sys
from types import SimpleNamespace

import pytest
import torch
from matplotlib.figure import Figure

from reverie.benchmarks.claims.report import Claim, Findings
from reverie.benchmarks.claims.second_ring import __main__ as second_ring
from reverie.benchmarks.claims.second_ring import demonstrations, tabular


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


def test_demonstrations_halve_the_gap_of_scarce_models_and_few_harm_good_ones():
    settings = [*demonstrations.HALVED, demonstrations.HARMED]
    claims = demonstrations.claim_tables(demonstrations.measure_tables(settings))
    assert [claim.holds for claim in claims] == [True, True, True]


def test_planning_near_a_clone_has_plain_planning_and_the_clone_as_its_limits():
    torch.manual_seed(0)
    tasks = tabular.draw_tasks(3, 4, 3, 5, 0.3)
    best = tabular.plan(tasks)
    clone = tabular.clone_behaviour(tasks, best, 20)
    torch.testing.assert_close(clone.sum(-1), torch.ones(3, 5, 4, dtype=torch.float64))
    free = tabular.plan_near(tasks, clone, 1e-4)
    torch.testing.assert_close(tasks.value(free), tasks.value(best), rtol=0, atol=1e-3)
    torch.testing.assert_close(tabular.plan_near(tasks, clone, 1e6), clone, rtol=0, atol=1e-4)
    # lambda log sum is E_pi[Q] - lambda KL(pi || clone), of one step by hand.
    one = tabular.Tasks(tasks.transitions[:, :1], tasks.rewards[:, :1])
    near = tabular.plan_near(one, clone[:, :1], 0.5)[:, 0, 0]
    expected = clone[:, 0, 0] * (tasks.rewards[:, 0, 0] / 0.5).exp()
    torch.testing.assert_close(near, expected / expected.sum(-1, keepdim=True))
