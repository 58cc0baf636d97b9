"""`training.export` on a finished run: what it prints and writes, and how mistakes end."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import reverie
from reverie.mistake import Mistake
from reverie.training.export import __main__ as tool
from reverie.training.export import c_files, controller
from reverie.training.export.folder import digest
from reverie.training.export.subject import choose_seed, findings
from reverie.training.launch.make import compose_command
from reverie.training.run_directory import start_over

ALL = ["numpy", "torchscript", "onnx", *(["c"] if c_files.find_compiler() else [])]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "run"
    run = reverie.make(
        "algorithm=td3_bc",
        dataset={"episodes": 12},
        agent={"hidden": [8, 8]},
        **{"updates": 20, "log_every": 10, "batch_size": 8, "probe_starts": 0, "threads": 1},
        evaluate={"every": 10, "episodes": 1},
        seeds=2,
    )
    run.train(folder)
    return folder


@pytest.fixture
def run_dir(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def export(run_dir, **settings):
    settings = {"tests": 16, "decisions": 3, "format": "numpy", **settings}
    return tool.export(compose_command("export", run=str(run_dir), **settings))


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def test_an_empty_output_is_refused(run_dir):
    with pytest.raises(Mistake, match="output= is empty"):
        export(run_dir, output="")


def test_every_format_has_a_folder_and_a_manifest_that_is_true(run_dir, capsys):
    found = export(run_dir, format=ALL)
    assert list(found) == ALL
    printed = capsys.readouterr().out
    assert "the best score" in printed and "us per decision" in printed
    saved = reverie.load(run_dir)
    scores = saved.summary["result"]["score_last10_per_seed"]
    data = saved.load_dataset()
    for name in ALL:
        folder = run_dir / "export" / name
        manifest = manifest_of(folder)
        assert manifest["files"] == {
            path.name: digest(path) for path in folder.iterdir() if path.name != "manifest.json"
        }
        assert (manifest["format"], manifest["what"]) == (name, "policy")
        assert manifest["run"]["seed"] == int(np.argmax(scores))
        assert manifest["data"]["fingerprint"] == data.fingerprint
        assert manifest["scores"]["score_last10_per_seed"] == scores
        assert manifest["measured"]["difference"] <= manifest["tolerance"]
        (action,) = manifest["outputs"]["action"]
        assert (action["name"], action["unit"], action["box"]) == ("action 0", None, [-2.0, 2.0])
        recorded = [each["recorded"] for each in manifest["inputs"]["obs"]]
        low, high = np.array(recorded).T
        assert low == pytest.approx(data.transitions.obs.amin(0).numpy())
        obs = np.array(manifest["self_test"]["inputs"]["obs"])
        assert len(obs) == 16 and (obs > high).any() and (obs < low).any()
        rows = torch.tensor(obs).float().expand(2, -1, -1)
        expected = 2 * saved.policy(rows)[manifest["run"]["seed"]]
        actions = np.array(manifest["self_test"]["outputs"]["action"])
        assert actions == pytest.approx(expected.numpy(), abs=1e-5)


def test_the_numpy_files_work_where_nothing_of_ours_is(run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    export(run_dir, output=str(tmp_path / "plant"))
    script = """
import json, sys
import numpy as np
from policy import policy
test = json.load(open("manifest.json"))["self_test"]
print(np.abs(policy(test["inputs"]["obs"]) - test["outputs"]["action"]).max() < 1e-5)
print([name for name in sys.modules if name.split(".")[0] in ("torch", "reverie")])
"""
    folder = tmp_path / "plant" / "numpy"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split("\n")[:2] == ["True", "[]"], done.stderr
    assert (folder / "__pycache__").is_dir()
    export(run_dir, output=str(tmp_path / "plant"))  # which that does not hinder
    assert not (folder / "__pycache__").exists()


def test_the_same_run_gives_the_same_bytes(run_dir, tmp_path, capsys):
    formats = [name for name in ALL if name != "torchscript"]
    for place in ("one", "two"):
        export(run_dir, format=formats, output=str(tmp_path / place))
    for path in (tmp_path / "one").rglob("*.*"):
        other = tmp_path / "two" / path.relative_to(tmp_path / "one")
        if path.name == "manifest.json":
            one, two = (json.loads(each.read_text()) for each in (path, other))
            one["measured"]["microseconds"] = two["measured"]["microseconds"] = 0
            assert one == two
        elif path.is_file():
            assert path.read_bytes() == other.read_bytes(), path


def test_typed_commands_give_the_same_torchscript(run_dir, tmp_path, command):
    """In processes of their own: torch numbers the programs of one."""
    typed = ["-m", "reverie.training.export", f"run={run_dir}", "format=torchscript", "decisions=3"]
    files = []
    for place in ("one", "two"):
        done = command(*typed, f"output={tmp_path / place}")
        assert (done.returncode, done.stderr) == (0, "")
        assert f"written: {tmp_path / place}" in done.stdout
        files.append((tmp_path / place / "torchscript" / "policy.pt").read_bytes())
    assert files[0] == files[1]
    assert b"site-packages" not in files[0] and b"reverie" not in files[0]


def refused(run_dir, **settings):
    before = sorted(run_dir.rglob("*")) if run_dir.is_dir() else []
    with pytest.raises(Mistake) as caught:
        export(run_dir, **settings)
    assert (sorted(run_dir.rglob("*")) if run_dir.is_dir() else []) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"format": "???"}, "give format=torchscript, onnx, numpy, c or equations"),
        ({"format": "???", "what": "world_model"}, "format has no value; give format=onnx"),
        ({"format": "matlab"}, "format=matlab is unknown; use torchscript"),
        ({"format": ["c", ["numpy"]]}, "format=['numpy'] is unknown; use torchscript"),
        ({"format": []}, "names nothing to write"),
        ({"what": "critic"}, "what=critic is unknown; use policy or world_model"),
        ({"what": "world_model"}, "a world model is not written as numpy; use format=onnx"),
        ({"what": "world_model", "format": "onnx"}, "fitted no world model to export"),
        ({"seed": 2}, "seed=2 is not there; the run has the seeds 0 to 1"),
        ({"seed": -1}, "seed=-1"),
        ({"tests": 3}, "tests=3"),
        ({"format": "equations"}, "was not distilled"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_in_one_line(run_dir, settings, words):
    assert words in refused(run_dir, **settings)


def test_a_run_that_was_not_trained_is_refused(run_dir, tmp_path):
    assert "nothing is no directory; give the directory of a run" in refused(tmp_path / "nothing")
    (run_dir / "checkpoint.pt").unlink()
    assert "has not been trained yet" in refused(run_dir)


def test_a_policy_that_rounding_moves_is_not_written(run_dir, monkeypatch):
    monkeypatch.setattr(tool, "TOLERANCE", -1.0)
    assert "nothing is written" in refused(run_dir)
    assert not (run_dir / "export").exists()


def test_without_a_compiler_c_is_written_and_not_compared(run_dir, monkeypatch, capsys):
    monkeypatch.setattr(c_files, "find_compiler", lambda: None)
    assert export(run_dir, format="c")["c"].difference is None
    assert "c is not compared" in capsys.readouterr().out
    assert manifest_of(run_dir / "export" / "c")["measured"]["difference"] is None


def test_data_that_are_gone_leave_ranges_unknown(run_dir, monkeypatch, capsys):
    def gone(self):
        raise Mistake("the file is gone")

    monkeypatch.setattr(tool.SavedRun, "load_dataset", gone)
    export(run_dir)
    assert "no recorded ranges: the file is gone" in capsys.readouterr().out
    manifest = manifest_of(run_dir / "export" / "numpy")
    assert [each["recorded"] for each in manifest["inputs"]["obs"]] == [None] * 3


def test_an_overwritten_run_takes_its_exports_along(run_dir):
    export(run_dir, format=ALL)
    (run_dir / ".lock").touch()
    start_over(run_dir)
    assert not (run_dir / "export").exists()


def test_which_seed_is_exported():
    result = {"return_last10_per_seed": [None, -5.0, -7.0]}
    assert choose_seed(3, None, {"result": result})[0] == 1
    assert choose_seed(3, 2, {"result": result}) == (2, "as chosen")
    assert choose_seed(1, None, {}) == (0, "the only one")
    assert choose_seed(3, None, {})[1].startswith("the first, for the run is not finished")
    assert choose_seed(3, None, {"result": {}})[1].startswith("the first, for the summary holds")
    assert findings({"result": {}, "verdict": {"a": 1}}) == {
        **{"scores": None, "verdict": {"a": 1}, "alarms": None}
    }


def verdict(outcome, fqe, model=None, converged=True):
    """Of a seed an entry each; None for an estimate that was not finite."""
    count = len(outcome)
    converged = converged if isinstance(converged, list) else [converged] * count
    return {
        "outcome": outcome,
        "fqe": {
            "diverged": False,
            "converged": converged,
            "value": [[each] * 3 for each in fqe],
        },
        "model": model and {"broken": [0.0] * count, "value": [[each] * 3 for each in model]},
    }


@pytest.mark.parametrize(
    ("found", "chosen", "said"),
    [
        (
            verdict(["better"] * 3, [5, 3, 9], [1, 2, None]),
            1,
            "of the outcome better and the best by the lower of fitted Q evaluation and the model "
            "rollouts, 2",
        ),
        # An estimate that had not converged, however high, decides nothing.
        (
            verdict(["better"] * 2, [5, 900], [2, 1], [False] * 2),
            0,
            "best by the model rollouts, 2",
        ),
        (verdict(["better"] * 2, [5, 900], [2, 1], [True, False]), 0, "by the model rollouts, 2"),
        (verdict(["contradiction", "worse", "unclear"], [9, 8, 1]), 2, "of the outcome unclear"),
        (verdict(["unclear", "better"], [9, 1]), 1, "of the outcome better"),
        (verdict(["worse", "worse"], [1, 2]), 1, "of the outcome worse and the best by fitted Q"),
        (verdict(["none"] * 2, [1, 2], None, False), 0, "for no estimate of its verdict is fit"),
        (verdict(["worse", "none"], [1, 2], None, [True, False]), 1, "not to be rejected"),
        ({"outcome": ["none"] * 3, "fqe": {"diverged": True}, "model": None}, 0, "is fit for use"),
    ],
)
def test_a_seed_is_chosen_by_what_the_verdict_trusts(found, chosen, said):
    seed, why = choose_seed(len(found["outcome"]), None, {"result": {}, "verdict": found})
    assert seed == chosen and said in why


def test_a_decision_is_timed_without_its_first_calls():
    calls = []
    assert controller.microseconds(lambda: calls.append(1), 10) > 0
    assert len(calls) == 40
