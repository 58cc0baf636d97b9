"""Plans beside policies: tasks by name, scales, verdicts, and the new tasks end to end."""

import json
import sys
from dataclasses import asdict, replace
from datetime import date
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from reverie import datasets
from reverie.benchmarks.claims import blind_pendulum, plans
from reverie.benchmarks.claims.planning import __main__ as planning
from reverie.benchmarks.claims.planning import hidden_velocity, policies
from reverie.benchmarks.claims.report import RESULTS, Claim, Findings
from reverie.envs import two_tanks
from reverie.envs.make import spec_of
from reverie.envs.specs import Reference
from reverie.mistake import Mistake


def module(*names, holds=True, value=1.0):
    """Something with `jobs` and `judge` that counts how often each arm ran."""
    ran = dict.fromkeys(names, 0)

    def jobs(quick):
        def job(name):
            ran[name] += 1
            return {"value": value}

        return {name: lambda name=name: job(name) for name in names}

    def judge(found, quick):
        seen = [Claim(name, "-", f"{run['value']}", holds) for name, run in found.items()]
        return Findings(seen, {}, {"planning": Figure()})

    return SimpleNamespace(jobs=jobs, judge=judge, ran=ran)


@pytest.fixture
def modules(monkeypatch):
    own = {"policies": module("one", "two"), "pendulum": module("fitted", "true")}
    monkeypatch.setattr(planning, "MODULES", own)
    monkeypatch.setattr(planning, "TASKS", ("policies/one", "policies/two", "pendulum"))
    monkeypatch.setattr(
        planning, "run_all", lambda jobs: {name: job() for name, job in jobs.items()}
    )
    return own


def command(monkeypatch, folder, *words):
    monkeypatch.setattr(sys, "argv", ["planning", "--output", str(folder), *words])
    return planning.main()


def recorded(folder, name="planning"):
    return json.loads((folder / f"{name}.json").read_text())


def age(folder):
    """Let everything have been measured long ago, with another value."""
    found = recorded(folder)
    for task in found["measured"].values():
        task |= {"date": "2020-02-02", "seconds": 60.0}
    for arm in (*found["policies"].values(), *found["pendulum"].values()):
        arm["value"] = 7.0
    (folder / "planning.json").write_text(json.dumps(found))


def test_all_tasks_are_named():
    assert planning.TASKS[:4] == tuple(f"policies/{name}" for name in policies.TASKS)
    assert planning.TASKS[4:] == ("hidden_velocity", "pendulum", "linear-quadratic")


def test_a_part_does_not_take_the_place_of_the_whole(monkeypatch, tmp_path, modules):
    assert command(monkeypatch, tmp_path) == 0
    whole = (tmp_path / "planning.json").read_bytes()
    assert recorded(tmp_path)["missing"] == [] and not recorded(tmp_path)["partial"]
    assert command(monkeypatch, tmp_path, "--only", "policies/two") == 0
    part = recorded(tmp_path, "planning-part")
    assert part["partial"] and list(part["policies"]) == ["two"] and "pendulum" not in part
    assert part["missing"] == ["policies/one", "pendulum"]
    assert part["claims"][-1]["measured"] == "policies/one, pendulum"
    assert (tmp_path / "planning.json").read_bytes() == whole
    assert {path.name for path in tmp_path.iterdir()} == {
        f"planning{kind}" for kind in (".json", ".png", "-part.json", "-part.png")
    }
    assert modules["policies"].ran == {"one": 1, "two": 2}


def test_a_task_is_added_and_the_others_keep_their_dates(monkeypatch, tmp_path, modules):
    command(monkeypatch, tmp_path)
    age(tmp_path)
    assert command(monkeypatch, tmp_path, "--continue", "--only", "policies/two") == 0
    found = recorded(tmp_path)
    dates = {task: own["date"] for task, own in found["measured"].items()}
    today = date.today().isoformat()
    assert dates == {"policies/one": "2020-02-02", "policies/two": today, "pendulum": "2020-02-02"}
    assert [row[1] for row in found["tables"][0]["rows"]] == ["2020-02-02", today, "2020-02-02"]
    assert {arm: run["value"] for arm, run in found["policies"].items()} == {"one": 7.0, "two": 1.0}
    assert found["missing"] == [] and 120 <= found["seconds"] < 121
    assert modules["policies"].ran == {"one": 1, "two": 2}
    assert modules["pendulum"].ran == {"fitted": 1, "true": 1}


def test_going_on_measures_what_is_missing(monkeypatch, tmp_path, modules):
    command(monkeypatch, tmp_path, "--continue", "--only", "policies/two")
    assert recorded(tmp_path)["missing"] == ["policies/one", "pendulum"]
    found = recorded(tmp_path)
    found["pendulum"] = {"true": {"value": 1.0}}  # without an arm that it has today
    found["measured"]["pendulum"] = found["measured"]["policies/two"]
    (tmp_path / "planning.json").write_text(json.dumps(found))
    command(monkeypatch, tmp_path, "--continue")
    assert recorded(tmp_path)["missing"] == [] and modules["pendulum"].ran["true"] == 1
    assert modules["policies"].ran == {"one": 1, "two": 1}


def test_what_another_command_recorded_meanwhile_is_kept(monkeypatch, tmp_path, modules):
    command(monkeypatch, tmp_path, "--continue", "--only", "pendulum")

    def run_late(jobs):
        monkeypatch.setattr(planning, "run_all", lambda jobs: {n: job() for n, job in jobs.items()})
        command(monkeypatch, tmp_path, "--continue", "--only", "policies/one")
        return {name: job() for name, job in jobs.items()}

    monkeypatch.setattr(planning, "run_all", run_late)
    command(monkeypatch, tmp_path, "--continue", "--only", "policies/two")
    assert recorded(tmp_path)["missing"] == [] and list(recorded(tmp_path)["policies"]) == [
        "one",
        "two",
    ]


@pytest.mark.parametrize("text", ["{", '{"benchmark": "planning"}'])
def test_a_damaged_record_is_refused_before_anything_runs(monkeypatch, tmp_path, modules, text):
    (tmp_path / "planning.json").write_text(text)
    with pytest.raises(Mistake, match=r"planning\.json is damaged .*leave --continue out"):
        command(monkeypatch, tmp_path, "--continue", "--only", "pendulum")
    assert (tmp_path / "planning.json").read_text() == text
    assert modules["pendulum"].ran == {"fitted": 0, "true": 0}


def test_what_is_recorded_is_judged_as_it_was():
    """Judged anew from the file, after a task was added, every claim says the same."""
    path = RESULTS / "planning.json"
    again = planning.measure([], lambda: planning.read_known(path), quick=False)
    assert [asdict(claim) for claim in again.claims] == recorded(RESULTS)["claims"]
    assert "after 1, 0.025 after 25" in again.claims[3].measured


def test_a_quick_look_adds_nothing(monkeypatch, tmp_path, modules):
    with pytest.raises(Mistake, match="--continue adds"):
        command(monkeypatch, tmp_path, "--continue", "--quick")


def test_a_task_without_a_scale_has_that_of_its_log():
    data = datasets.load("builtin/two-tanks", episodes=4)
    assert data.reference is None
    scale = plans.scale_of(data)
    ends = scale.normalise(np.array([data.returns.mean(), data.returns.max()]))
    assert ends.tolist() == pytest.approx([0.0, 100.0])
    own = Reference(1.0, 2.0, "made up")
    assert plans.scale_of(replace(data, reference=own)) is own


def test_policies_of_a_log_act_in_its_plant():
    data = datasets.load("builtin/two-tanks", episodes=4)
    plant = spec_of(two_tanks.ENV_ID, env_kwargs={}, physics="as-is")

    def feedback(obs):
        return 2.0 * two_tanks.feedback(obs, 0.02) - 1.0

    def closed(obs):
        return -torch.ones(*obs.shape[:-1], 1)

    good, bad = (
        plans.score(data, policy, episodes=2, seeds=1, plant=plant)["score"][0]
        for policy in (feedback, closed)
    )
    assert good > 0 > bad


def test_plans_with_a_history_are_judged_against_those_with_the_velocity():
    def judged(three, one):
        means = {"k=3": three, "k=1": one, blind_pendulum.FULL: 100.0}
        found = {
            arm: {"score": [mean - 1, mean, mean, mean + 1], "milliseconds": 1.0}
            for arm, mean in means.items()
        }
        return [claim.holds for claim in hidden_velocity.judge(found, quick=False).claims]

    assert judged(91, 60) == [True, True]
    assert judged(89, 71) == [False, False]


SHORT = {"horizon": 2, "samples": 20, "iterations": 1}


@pytest.mark.slow
def test_the_task_without_a_score_runs(monkeypatch):
    monkeypatch.setattr(policies, "QUICK_UPDATES", 5)
    monkeypatch.setattr(policies, "QUICK_EPOCHS", 1)
    tiny = replace(policies.TASKS["two-tanks"], changes=SHORT, options={"episodes": 4})
    monkeypatch.setitem(policies.TASKS, "two-tanks", tiny)
    found = {"two-tanks": policies.run("two-tanks", quick=True)}
    assert all(np.isfinite(found["two-tanks"][arm]["score"]).all() for arm in policies.ARMS)
    judged = policies.judge(found, quick=True)
    assert [claim.holds for claim in judged.claims] == [None, None]
    assert len(judged.figures["planning"].axes) == 1


@pytest.mark.slow
def test_plans_see_what_their_model_sees(monkeypatch):
    quick = blind_pendulum.QUICK
    model = {**quick.model, "max_epochs": 1, "heldout_episodes": 2, "hidden": [8]}
    model |= {"members": 2, "elites": 1, "weight_decay": [0.0, 0.0]}
    monkeypatch.setattr(blind_pendulum, "QUICK", replace(quick, episodes=20, model=model))
    plan = hidden_velocity.plan
    monkeypatch.setattr(
        hidden_velocity, "plan", lambda data, model, _, **size: plan(data, model, SHORT, **size)
    )
    found = {arm: hidden_velocity.run(arm, quick=True) for arm in hidden_velocity.ARMS}
    assert all(len(run["score"]) == 4 and np.isfinite(run["score"]).all() for run in found.values())
    judged = hidden_velocity.judge(found, quick=True)
    assert [claim.holds for claim in judged.claims] == [None, None]
