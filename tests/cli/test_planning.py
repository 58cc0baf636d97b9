"""Plans from the command line: as a run of their own, and in the place of a run's agent."""

import csv
import json

import pytest

from tests.cases import some
from tests.cli.conftest import SMALL

MODEL = tuple(each for each in SMALL if each.startswith(("dataset", "world_model", "threads")))
QUICK = ("planner.samples=8", "planner.elites=2", "planner.iterations=1", "planner.horizon=2")


@pytest.fixture
def planned(command, tmp_path):
    """A run of plans, and what it printed."""

    def run(*changes):
        done = command(
            *("train.py", "algorithm=mpc", f"run_dir={tmp_path / 'mpc'}"), *MODEL, *QUICK, *changes
        )
        assert done.returncode == 0, done.stderr
        return tmp_path / "mpc", done.stdout

    return run


def test_plans_need_no_agent_and_are_scored_as_a_run(planned, command):
    run_dir, printed = planned("seeds=2", "behaviour=clone", "behaviour.steps=20",
                               "behaviour.measure_every=10", "planner.proposals=behaviour",
                               "evaluate.episodes=2")  # fmt: skip
    assert "budget" not in printed
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["updates"] == 0 and summary["result"]["evaluations"] == 1
    assert len(summary["result"]["return_final_per_seed"]) == 2
    with open(run_dir / "metrics.csv", newline="") as file:
        assert {row["update"] for row in csv.DictReader(file)} == {"0"}
    scored = command("evaluate.py", f"run={run_dir}", "episodes=2")
    assert scored.returncode == 0, scored.stderr
    assert "ms per decision on" in scored.stdout
    own = json.loads((run_dir / "evaluation.json").read_text())
    assert own["planner"] is None and own["milliseconds_per_decision"] > 0
    same = command("evaluate.py", f"run={run_dir}", "episodes=2", "planner=mppi", *QUICK,
                   "planner.proposals=behaviour")  # fmt: skip
    assert same.returncode == 0, same.stderr
    assert json.loads((run_dir / "planning.json").read_text())["returns"] == own["returns"]

    for module, line in (
        ("training/export/__main__.py", "has no policy network to export"),
        ("training/ope/__main__.py", "set fqe.updates=0"),
    ):
        refused = command(module, f"run={run_dir}", *(["format=c"] if "export" in module else []))
        assert refused.returncode == 1 and line in refused.stderr, refused.stderr
        assert refused.stderr.count("\n") == 1


@pytest.mark.slow
def test_plans_of_a_run_with_an_agent_begin_with_the_agent(train, command, tmp_path):
    run_dir = tmp_path / "mopo"
    done = train(f"run_dir={run_dir}", "evaluate.every=0")
    assert done.returncode == 0, done.stderr

    def returns(name, *typed):
        scored = command("evaluate.py", f"run={run_dir}", "episodes=2", *typed)
        assert scored.returncode == 0, scored.stderr
        return json.loads((run_dir / name).read_text())["returns"]

    agent = returns("evaluation.json")
    assert returns("planning.json", "planner=mppi", "planner.samples=0") == agent
    assert returns("planning.json", "planner=cem", *QUICK, "planner.policy_samples=2") != agent


REFUSED = [
    (["algorithm=mopo", "planner=mppi"], "train with agent=none"),
    (["algorithm=mopo", "updates=0"], "updates=0 trains no agent"),
    (["algorithm=mpc", "updates=5"], "agent=none learns nothing in updates=5"),
    (["algorithm=mpc", "planner=none"], "choose planner=mppi or planner=cem"),
    (["algorithm=mpc", "planner=diffusion"], "choose planner=mppi or planner=cem"),
    (["algorithm=mpc", "world_model=none"], "plans need a world model"),
    (["algorithm=mpc", "source=branched"], "set source=none"),
    (["algorithm=mpc", "behaviour=clone"], "set planner.proposals=behaviour"),
    (["algorithm=mpc", "planner.proposals=behaviour"], "train with behaviour=clone"),
    (["algorithm=mpc", "planner.elites=99"], "lower planner.elites"),
]


@pytest.mark.parametrize(("typed", "line"), some(REFUSED, 4))
def test_what_makes_no_sense_is_refused_in_a_line(fails, typed, line):
    assert line in fails(*typed)


@pytest.mark.slow
def test_a_run_without_a_world_model_is_refused_in_a_line(command, fails, tmp_path):
    small = [each for each in SMALL if not each.startswith(("world_model", "source"))]
    run = (f"run_dir={tmp_path / 'bc'}", "updates=2", "evaluate.every=0")
    done = command("train.py", "algorithm=bc", *small, *run)
    assert done.returncode == 0, done.stderr
    line = fails(f"run={tmp_path / 'bc'}", "planner=mppi", script="evaluate.py")
    assert "keeps no fitted world model to plan in" in line and "algorithm=mpc" in line
