"""Paths with characters that the command line's grammar reads otherwise."""

import os
import shlex

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from reverie.mistake import Mistake
from reverie.paths import quote, quote_paths
from reverie.training.launch.mistakes import explain

ODD = [
    "run=3.npz",
    "run(1).npz",
    "data #2.npz",
    "a,b.npz",
    "a$b.npz",
    "a$$b$.npz",
    "[a].npz",
    "[a]",
    "{a}.npz",
    "{a: 1}",
    "it's.npz",
    'say "x".npz',
    "ends with'",
    "a&b;c|d.npz",
    "ä/ü.npz",
    "a:b.npz",
    "a b.npz",
    " begins",
    "a\\b.npz",
    "ends\\",
    "123",
    "1e5",
    "true",
    "inf",
    "!x^y",
    "<a>",
    "plain/data-2.v1_x.npz",
    "choice(1).npz",
    "a*?[0-9].npz",
    "a\nb.npz",
]


def read(arguments):
    """The values that Hydra reads, a list where it is a sweep."""
    values = []
    for override in OverridesParser.create().parse_overrides(arguments):
        swept = override.is_sweep_override()
        values.append(list(override.sweep_string_iterator()) if swept else override.value())
    return values


@pytest.mark.parametrize("path", ODD)
@pytest.mark.parametrize(
    "key", ["dataset.path", "run", "run_dir", "world_model.path", "+cache", "output"]
)
def test_an_odd_path_is_read_as_it_is_typed(key, path):
    quoted = quote_paths([f"{key}={path}"])
    assert read(quoted) == [path]
    assert quote_paths(quoted) == quoted
    assert read([f"{key}={quote(path)}"]) == [path]


@pytest.mark.parametrize(
    "typed",
    [
        "dataset.path='a b.npz'",
        'run="a=b"',
        "dataset.path=glob(*.npz)",
        "run=choice(a,b)",
        "dataset.path=${oc.env:HOME}/x.npz",
        "dataset.path=null",
        "run_dir=",
        r"dataset.path=a\=b.npz",
        "agent.hidden=[1,2]",
        "algorithm=a=b",
        "--config-dir=a=b",
        "-m",
    ],
)
def test_what_is_meant_by_the_grammar_stays(typed):
    assert quote_paths([typed]) == [typed]


def test_commas_are_sweeps_where_somebody_sweeps():
    assert read(quote_paths(["dataset.path=a.npz,b.npz", "-m"])[:1]) == [["a.npz", "b.npz"]]
    odd = quote_paths(["-m", "dataset.path=run(1).npz,x=2.npz,'a,b'"])[1]
    assert read([odd]) == [["'run(1).npz'", "'x=2.npz'", "'a,b'"]]
    assert quote_paths(["run=glob(a,b)"], sweeps=True) == ["run=glob(a,b)"]
    assert read(quote_paths(["run=a,b"])) == ["a,b"]


def test_an_interpolation_inside_an_odd_path_stays_one(monkeypatch):
    assert quote_paths(["dataset.path=${oc.env:X}/a=b"]) == ["dataset.path='${oc.env:X}/a=b'"]


def test_a_tilde_is_the_home_folder_however_it_is_typed(monkeypatch):
    monkeypatch.setenv("HOME", "/home/some one")
    for typed in ("~/x.npz", "'~/x.npz'", '"~/x.npz"'):
        assert read(quote_paths([f"dataset.path={typed}"])) == ["/home/some one/x.npz"]
    assert read(quote_paths(["run=~"])) == ["/home/some one"]
    assert read(quote_paths(["run=a~b"])) == ["a~b"]
    assert os.path.expanduser("~nobody-of-this-name/x") == "~nobody-of-this-name/x"
    assert read(quote_paths(["run=~nobody-of-this-name/x"])) == ["~nobody-of-this-name/x"]


@pytest.mark.parametrize(
    "typed", ["agent.activation=a=b", "dataset.env_id=x(1)", "logger.mode=a$`b)"]
)
def test_other_settings_that_cannot_be_read_say_how_to_quote_them(typed):

    with pytest.raises(Exception) as caught:
        OverridesParser.create().parse_overrides([typed])
    message = explain(caught.value)
    assert message.startswith(f"{typed} cannot be read")
    (argument,) = shlex.split(message.rpartition(" type ")[2])
    assert read([argument]) == [typed.partition("=")[2]]
    assert not isinstance(caught.value, Mistake)


def test_a_run_of_odd_names_is_trained_drawn_evaluated_and_reported(command, tmp_path):
    rng = np.random.default_rng(0)
    columns = {
        "observations": rng.normal(size=(60, 3)),
        "actions": rng.uniform(-1, 1, (60, 1)),
        "rewards": rng.normal(size=60),
        "terminals": np.zeros(60, bool),
        "timeouts": np.arange(60) % 20 == 19,
    }
    data = tmp_path / "a$x_{$ [/b] :cat: #1, (2)=it's.npz"
    data.parent.mkdir(parents=True)
    np.savez(data, **columns)
    run_dir = tmp_path / "runs $y$ [/c], 100%=~"
    small = ("updates=4", "batch_size=8", "log_every=2", "threads=1", "agent.hidden=[8]")
    here = ("algorithm=td3_bc", "dataset=file", f"dataset.path={data}", f"run_dir={run_dir}")
    done = command("train.py", *here, "name=$\\x_{", "dataset.env_id=Pendulum-v1", *small)
    assert done.returncode == 0, done.stderr
    assert (run_dir / "curves.png").is_file() and f"run directory: {run_dir}" in done.stdout
    assert "$\\x_{ on b] :cat: #1, (2)=it's" in " ".join(done.stdout.split())
    done = command("evaluate.py", f"run={run_dir}", "episodes=1")
    assert done.returncode == 0 and f"written: {run_dir}/evaluation.json" in done.stdout
    pages = tmp_path / "pages [/d]"
    done = command("-m", "training.report", str(run_dir), "--output", str(pages))
    assert done.returncode == 0, done.stderr
    assert (pages / "report.md").is_file()
