"""`training.ope` on a finished run: what it prints and writes, and how mistakes end."""

import json
import math
import os
import shutil
from io import StringIO

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from rich.console import Console
from torch import nn

import reverie
from reverie.mistake import Mistake
from reverie.training.checkpoint import load_changed
from reverie.training.files import save_tensors
from reverie.training.launch.mistakes import explain
from reverie.training.ope.__main__ import FILE, evaluate
from reverie.training.results.summary import print_results, read_summary
from tests.cli.conftest import SMALL

FAST = (
    "fqe.updates=30",
    "fqe.batch_size=16",
    "fqe.hidden=[8]",
    "fqe.replicas=2",
    "doubly_robust.updates=20",
    "doubly_robust.hidden=[8]",
    "starts=5",
    "episodes=2",
    "discount=0.9",
    "threads=1",
)


def trained(folder, *changes):
    """A small run of two seeds."""
    reverie.make(*SMALL, "seeds=2", *changes).train(folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ope")
    judged = ("verdict.starts=4", "verdict.fqe.hidden=[8]", "agent.discount=0.9")
    cache = f"cache={tmp_path_factory.getbasetemp() / 'cache'}"
    return trained(folder, cache, "evaluate.every=0", *judged)


@pytest.fixture
def run_dir(finished, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(finished, tmp_path / "copy")


def ope(run_dir, *changes):
    with initialize_config_dir(os.path.abspath("conf"), version_base="1.3"):
        settings = compose("ope", overrides=[f"run={run_dir}", *FAST, *changes])
    evaluate(settings)
    return json.loads((run_dir / FILE).read_text())


def refused(run_dir, *changes):
    with pytest.raises(Exception) as caught:
        ope(run_dir, *changes)
    return explain(caught.value)


def spoil(run_dir, **changes):
    """A run of other settings, which its checkpoint belongs to as well."""
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    for name, value in changes.items():
        group, key = name.split("__")
        config[group] = value if key == "all" else {**config[group], key: value}
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    record = torch.load(run_dir / "checkpoint.pt", weights_only=True)
    torch.save({**record, "settings": config}, run_dir / "checkpoint.pt")


def test_training_ended_with_a_verdict_that_is_shown_again(finished):
    summary = read_summary(finished / "summary.json")
    verdict = summary["verdict"]
    assert verdict["seeds"] == 2 and verdict["discount"] == 0.9 and verdict["horizon"] == 200
    assert verdict["fqe"]["updates"] == 15 and verdict["model"] is not None
    console = Console(file=StringIO(), width=80)
    print_results(summary, finished, console)
    printed = console.file.getvalue()
    assert "recorded behaviour" in printed and "1: model rollouts" in printed
    assert "verdict: " in printed


def test_estimates_stand_beside_the_truth(run_dir, capsys):
    found = ope(run_dir, "true_return=true")
    assert set(found["estimates"]) == {"fqe/value", "model/value", "model/return"}
    for seeds in found["estimates"].values():
        assert len(seeds) == 2 and all(low <= high for _, low, high in seeds)
    horizon = math.ceil(math.log(1e-3) / math.log(0.9))
    truth = found["truth"]
    # Pendulum's reward is from -16.3 to 0.
    assert all(-16.3 * 10 < value < 0 for value in truth["value"]) and horizon < 200
    assert all(a < b for a, b in zip(truth["return"], truth["value"], strict=True))
    printed = capsys.readouterr().out
    assert "in truth" in printed and "model rollouts" in printed and "discounted by 0.9" in printed
    assert ope(run_dir, "true_return=true")["estimates"] == found["estimates"]


def test_a_run_without_a_model_gets_one_or_does_without(run_dir, capsys):
    spoil(run_dir, world_model__all=None)
    found = ope(run_dir)
    assert set(found["estimates"]) == {"fqe/value"} and found["truth"] is None
    assert "world_model=ensemble fits one" in capsys.readouterr().out
    small = ("world_model.hidden=[8]", "world_model.weight_decay=[0.0,0.0]")
    fit = (*small, "world_model.max_epochs=1", "world_model.members=2", "world_model.elites=1")
    found = ope(run_dir, "world_model=ensemble", *fit, "fqe.updates=0")
    assert set(found["estimates"]) == {"model/value", "model/return"}
    assert "nothing is left to estimate with" in refused(run_dir, "fqe.updates=0")


def test_the_horizon_is_an_option_and_the_recorded_value_stands_beside(run_dir, capsys):
    whole, short = ope(run_dir), ope(run_dir, "horizon=5")
    assert whole["verdict"]["horizon"] == 200 and short["verdict"]["horizon"] == 5
    assert short["estimates"]["model/value"] == whole["estimates"]["model/value"]
    returns = [found["estimates"]["model/return"][0][0] for found in (whole, short)]
    assert returns[0] < returns[1] < 0
    recorded = short["verdict"]["recorded"]
    assert -16.3 * 5 < recorded["return"][0] < 0 and len(recorded["value"]) == 3
    printed = capsys.readouterr().out
    assert "recorded behaviour" in printed and "verdict: " in printed
    tables = [
        line for line in printed.splitlines() if not line.startswith(("verdict:", "written:"))
    ]
    assert all(len(line) <= 80 for line in tables)


def test_a_policy_without_a_discount_is_refused_before_anything_is_read(
    run_dir, monkeypatch, capsys
):
    def touched(*_, **__):
        raise AssertionError("something expensive was begun")

    monkeypatch.setattr("reverie.agents.sac.SAC.discount", 1.0, raising=False)
    spoil(run_dir, agent__discount=1.0)
    monkeypatch.setattr("reverie.training.launch.restore.load_dataset", touched)
    monkeypatch.setattr("reverie.training.fitting.fit", touched)
    message = refused(run_dir, "discount=null", "world_model=ensemble")
    assert "has no discount below 1" in message and "give one, such as discount=0.99" in message


def test_the_task_is_not_stepped_unless_asked(run_dir, monkeypatch):
    from gymnasium.envs.classic_control.pendulum import PendulumEnv

    def stepped(*_):
        raise AssertionError("the environment was stepped")

    monkeypatch.setattr(PendulumEnv, "step", stepped)
    ope(run_dir)
    with pytest.raises(Mistake, match="was stepped"):
        ope(run_dir, "true_return=true")


def test_mistakes_end_in_one_line(run_dir, tmp_path):
    assert "give the directory of a run" in refused(tmp_path / "nothing")
    assert "discount=1.0 must lie in (0, 1)" in refused(run_dir, "discount=1.0")
    assert "horizon=0 must be a whole number" in refused(run_dir, "horizon=0")
    assert "fqe.replicas=0 must be a whole number" in refused(run_dir, "fqe.replicas=0")
    assert "activation=none must be relu or silu" in refused(run_dir, "fqe.activation=none")
    other = refused(run_dir, "world_model=ensemble", f"world_model.path={tmp_path / 'no.pt'}")
    assert "no.pt does not exist" in other
    spoil(run_dir, dataset__episodes=11)
    assert "was trained on data with fingerprint" in refused(run_dir)


def test_the_model_of_an_online_run_is_the_refitted_one(tmp_path):
    saved, model, refitted = tmp_path / "checkpoint.pt", nn.Linear(2, 1), nn.Linear(2, 1)
    before = model.weight.clone()
    save_tensors(saved, "checkpoint", {"world_model": None})
    load_changed(saved, model, torch.device("cpu"))  # type: ignore[arg-type]
    assert torch.equal(model.weight, before)
    save_tensors(saved, "checkpoint", {"world_model": refitted.state_dict()})
    load_changed(saved, model, torch.device("cpu"))  # type: ignore[arg-type]
    assert torch.equal(model.weight, refitted.weight)


def test_the_command_line_prints_the_tables(command, finished):
    done = command("-m", "training.ope", f"run={finished}", *FAST)
    assert done.returncode == 0, done.stderr
    assert "fitted Q evaluation" in done.stdout and f"written: {finished}" in done.stdout
