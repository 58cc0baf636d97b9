"""The console command, and that every way to call one loads each of our modules once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reverie.envs.extras import EXTRAS
from reverie.training.launch import command as console
from reverie.training.launch.mistakes import this_command
from tests.cases import some

CHECKOUT = Path(__file__).parent.parent.parent
DRIVER = "tests/cli/loaded_twice.py"
OPTIONAL = (
    *("minari", "wandb", "tensorboard", "pysindy", "scipy", "threadpoolctl", "imageio", "av"),
    *("pygame", "gymnasium_robotics", "optuna", "submitit", "ray", "onnx", "onnxruntime"),
)
"""What the default job does without."""
FQE = ("discount=0.9", "fqe.updates=20", "fqe.batch_size=8", "doubly_robust.updates=20")
TINY = (
    *("algorithm=bc", "dataset.episodes=12", "updates=20", "batch_size=32", "agent.hidden=[16]"),
    *("evaluate.every=10", "evaluate.episodes=1", "log_every=10", "checkpoint_every=10"),
    *("probe_starts=4", "threads=1"),
)


@pytest.fixture
def run_dir(call, tmp_path):
    """A finished run, by `python train.py`."""
    status, _, error, twice = call("script", "train.py", *TINY, f"run_dir={tmp_path / 'run'}")
    assert (status, twice) == (0, {}), error
    return tmp_path / "run"


@pytest.mark.slow
def test_the_commands_on_a_run_load_each_module_once(call, run_dir, tmp_path):
    for kind, name, *arguments in (
        ("script", "evaluate.py", f"run={run_dir}", "episodes=1"),
        ("console", "evaluate", f"run={run_dir}", "episodes=1"),
        ("module", "training.report", str(run_dir), "--output", str(tmp_path / "report")),
        ("console", "report", str(run_dir), "--output", str(tmp_path / "report")),
        ("module", "training.ope", f"run={run_dir}", *FQE),
    ):
        status, _, error, twice = call(kind, name, *arguments)
        assert (status, twice) == (0, {}), (kind, name, error)


def test_the_default_job_needs_no_extra(call, environment, train, tmp_path):
    environment["MISSING"] = " ".join(OPTIONAL)
    status, _, error, twice = call("console", "train", *train.small, f"root={tmp_path}")
    assert (status, twice) == (0, {}), error
    status, *_ = call("console", "check", "dataset=builtin/pendulum-mixed", "dataset.episodes=12")
    assert status == 0


@pytest.mark.parametrize(
    ("arguments", "extra"),
    some(
        [
            (["train", "dataset=minari", "dataset.id=a/b-v0"], "minari"),
            (["check", "dataset=minari", "dataset.id=a/b-v0"], "minari"),
            (["train", "logger=wandb"], "wandb"),
            (["train", "logger=tensorboard"], "tensorboard"),
            (["train", "algorithm=sindy_rl", "dataset.episodes=12"], "sindy"),
            (["train", "dataset=random", "dataset.env_id=AdroitHandPen-v1"], "robotics"),
            (["collect", "env_id=Pendulum-v1"], "minari"),
            (["distil", "run=nowhere"], "sindy"),
            (["export", "run=nowhere", "format=onnx"], "export"),
            (["evaluate", "run=nowhere", "video=true"], "video"),
            (["tune", "study", "updates=interval(1,2)"], "tune"),
        ],
        4,
    ),
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_what_needs_an_extra_names_it_in_one_line(call, environment, tmp_path, arguments, extra):
    environment["MISSING"] = " ".join(OPTIONAL)
    root = [f"root={tmp_path}"] if arguments[0] in ("train", "collect") else []
    status, _, error, _ = call("console", *arguments, *root)
    lines = [line for line in error.splitlines() if line.strip()]
    assert status == 1 and len(lines) == 1, error
    assert lines[0].startswith("error: ") and "which is not installed; pip install " in lines[0]
    assert EXTRAS[extra][0] in lines[0] and f"(the extra {extra} of reverie)" in lines[0]


@pytest.mark.parametrize("name", sorted(console.COMMANDS))
@pytest.mark.slow
def test_every_command_has_help_and_loads_each_module_once(call, name):
    status, printed, error, twice = call("console", name, "--help")
    assert (status, twice) == (0, {}), error
    assert f"reverie {name}" in printed


def test_a_mistake_ends_a_console_command_as_it_ends_the_script(call, fails):
    said = fails("algorithm=mopoo")
    status, _, error, _ = call("console", "train", "algorithm=mopoo")
    assert (status, error.strip()) == (1, said)
    status, _, error, _ = call("console", "check", "dataset=nonsense")
    assert status == 1 and error.count("\n") == 1 and "options: builtin/" in error


def test_a_module_of_two_names_would_be_seen(tmp_path, command):
    (tmp_path / "both.py").write_text("import agents.losses, reverie.agents.losses\n")
    done = command(DRIVER, "script", str(tmp_path / "both.py"))
    twice = json.loads(done.stdout.splitlines()[-1])["twice"]
    assert twice == {"agents/losses.py": ["agents.losses", "reverie.agents.losses"]}


def test_no_command_and_a_wrong_one_say_what_there_is(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["reverie"])
    console.main()
    assert all(f"  {name} " in capsys.readouterr().out for name in ["train"])
    monkeypatch.setattr(sys, "argv", ["reverie", "trian"])
    with pytest.raises(SystemExit) as ended:
        console.main()
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and "use one of train, " in error


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("reverie ", set(console.COMMANDS)),
        ("reverie e", {"evaluate", "export"}),
        ("reverie train algorithm=mop", {"algorithm=mopo", "algorithm=mopo_bc"}),
        ("reverie ope fqe.upda", {"fqe.updates="}),
        ("reverie report ru", set()),
    ],
)
def test_the_shell_completes_commands_and_their_settings(call, environment, line, expected):
    environment |= {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    status, printed, error, _ = call("console", "-sc", "query=bash")
    assert (status, set(printed.split())) == (0, expected), error


def test_what_the_shell_installs_calls_reverie(call):
    status, printed, error, _ = call("console", "-sc", "install=bash")
    assert status == 0 and printed.endswith("hydra_bash_completion reverie"), error


@pytest.mark.slow
def test_a_parallel_sweep_runs_from_another_folder(environment, tmp_path):
    """Its processes import the command's module by name."""
    done = subprocess.run(
        [
            *(sys.executable, "-c", "from reverie.training.launch.command import main; main()"),
            *("train", "-m", *TINY, "seed=0,1", "hydra/launcher=joblib"),
        ],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(CHECKOUT), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0 and "2 jobs: 2 finished" in done.stdout, done.stderr
    assert len(list((tmp_path / "runs").rglob("summary.json"))) == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train.py", "rat=3"], "python train.py"),
        (["-m", "training.collect", "rat=3"], "python -m training.collect"),
        (["/usr/bin/reverie", "export"], "reverie export"),
        (["-m", "pytest"], "python -m reverie.train"),
        ([], "python -m reverie.train"),
    ],
)
def test_remedies_name_the_command_that_was_typed(monkeypatch, words, expected):
    monkeypatch.setattr(sys, "orig_argv", ["python", *words])
    assert this_command() == expected
