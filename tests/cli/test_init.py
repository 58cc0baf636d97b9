"""`init=RUN` and `extend=RUN` as a user types them, and what is refused."""

import shutil
import signal

import pytest
import torch
from omegaconf import OmegaConf

import reverie
from reverie.mistake import Mistake
from reverie.training.initialisation import digest

MODEL_FREE = ("algorithm=td3_bc", "dataset.episodes=12", "updates=60", "batch_size=32")
MODEL_FREE += ("agent.hidden=[16,16]", "evaluate.every=0", "probe_starts=0", "log_every=10")
MODEL_FREE += ("checkpoint_every=20", "threads=1")


@pytest.fixture
def run(command, tmp_path):
    def call(name, *changes, **how):
        place = f"run_dir={tmp_path / name}"
        done = command("train.py", f"root={tmp_path / 'runs'}", place, *MODEL_FREE, *changes, **how)
        return done

    return call


def parameters(folder):
    return reverie.load(folder, device="cpu").agent.state_dict()


@pytest.mark.slow
def test_a_run_goes_on_from_another_and_from_where_it_was_killed(run, tmp_path):
    assert run("first").returncode == 0
    first = tmp_path / "first"
    new = (f"init={first}", "dataset.seed=1")
    done = run("second", *new)
    assert done.returncode == 0, done.stderr
    assert f"starting from {first} after update 60, optimisers fresh" in done.stdout
    settings = OmegaConf.load(tmp_path / "second" / "config.yaml")
    assert (settings.init, settings.init_sha256) == (str(first), digest(first))

    killed = run("third", *new, death=(40, signal.SIGKILL))
    assert killed.returncode != 0 and not (tmp_path / "third" / "summary.json").exists()
    shutil.rmtree(first)
    resumed = run("third", *new)
    assert "resuming" in resumed.stdout and "starting from" not in resumed.stdout
    whole, ended = parameters(tmp_path / "second"), parameters(tmp_path / "third")
    assert all(torch.equal(whole[name], ended[name]) for name in whole)
    assert "is finished" in run("second", *new).stdout
    gone = run("fourth", *new)
    assert gone.returncode == 1 and "holds no checkpoint.pt" in gone.stderr
    assert not (tmp_path / "fourth").exists()
    again = run("third", *new, "overwrite=true")  # which needs the other run again
    assert again.returncode == 1 and (tmp_path / "third" / "summary.json").is_file()


def test_a_run_learns_on_online_and_itself_is_no_beginning(run, tmp_path):
    assert run("first").returncode == 0
    online = ("online=collect", "online.refit_every=0", "init_optimiser=keep")
    done = run("second", f"init={tmp_path / 'first'}", *online)
    assert done.returncode == 0, done.stderr
    assert "moments of its optimisers kept" in done.stdout
    itself = run("second", f"init={tmp_path / 'second'}", "overwrite=true")
    assert itself.returncode == 1 and "is the run directory itself" in itself.stderr
    assert (tmp_path / "second" / "summary.json").is_file()


REFUSED = {
    "algorithm=iql": "reverie.agents.td3_bc.TD3BC, this run learns with reverie.agents.iql.IQL",
    "agent.hidden=[8,8]": "set agent... as in",
    "dataset=builtin/refrigerator": "the dataset of this run has",
    "init_optimiser=new": "init_optimiser=new must be",
    "init_sha256=abc": "has changed since it was named by init_sha256=abc",
}


def test_what_does_not_fit_is_refused_in_one_line_and_leaves_nothing(run, tmp_path):
    assert run("first").returncode == 0
    for change, expected in REFUSED.items():
        done = run("second", f"init={tmp_path / 'first'}", change)
        assert done.returncode == 1, change
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
        assert expected in lines[0]
        assert not (tmp_path / "second").exists()
    done = run("second", f"init={tmp_path / 'first'}", "seeds=2", "agent.discount=0.9")
    assert "optimisers fresh; agent.discount was 0.99, is 0.9" in done.stdout, done.stderr


def test_it_starts_from_a_run_in_python_too(run, tmp_path):
    assert run("first").returncode == 0
    first = tmp_path / "first"
    small = [each for each in MODEL_FREE if not each.startswith("dataset")]
    data = reverie.datasets.load("builtin/pendulum-mixed", episodes=6)
    made = reverie.make(*small, dataset=data, init=str(first))
    obs = torch.randn(1, 4, 3)
    assert torch.equal(made.policy(obs), reverie.load(first, device="cpu").policy(obs))
    made.train(tmp_path / "second")
    shutil.rmtree(first)
    again = reverie.make(*small, dataset=data, init=str(first))
    again.train(tmp_path / "second")  # finished, so read
    assert torch.equal(made.policy(obs), again.policy(obs))
    with pytest.raises(Mistake, match=r"holds no checkpoint\.pt"):
        reverie.make(*small, dataset=data, init=str(first)).train()


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["mopo", "rebrac"])
def test_an_extended_run_ends_with_the_bits_of_a_long_one(run, tmp_path, algorithm):
    small = [f"algorithm={algorithm}", "evaluate.every=20", "evaluate.episodes=1"]
    small += ["verdict.starts=4", "seeds=2", "compile=false"]
    if algorithm == "mopo":
        small += ["world_model.max_epochs=1", "source.every=15", "agent.actor_cosine=false"]
    for name, more in (
        ("long", ["updates=100"]),
        ("short", ["updates=60"]),
        ("extended", ["updates=100", f"extend={tmp_path / 'short'}"]),
    ):
        done = run(name, *small, *more)
        assert done.returncode == 0, done.stderr
    assert "after update 60" in done.stdout
    whole, ended = parameters(tmp_path / "long"), parameters(tmp_path / "extended")
    assert all(torch.equal(whole[name], ended[name]) for name in whole)
    texts = [(tmp_path / name / "metrics.csv").read_text() for name in ("long", "extended")]
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_a_run_that_cannot_be_extended_deletes_nothing(run, tmp_path):
    assert run("first").returncode == 0
    first = tmp_path / "first"
    for expected, *typed in (
        ("is the run directory itself", f"extend={first}", "updates=80"),
        ("holds no checkpoint.pt", f"extend={tmp_path / 'gone'}", "updates=80"),
        ("has done 60 updates", f"extend={tmp_path / 'first' / '..' / 'copy'}"),
        ("was trained with batch_size=32", f"extend={tmp_path / 'copy'}", "batch_size=16"),
        (
            "cannot go on with online",
            f"extend={tmp_path / 'copy'}",
            "online=collect",
            "online.refit_every=0",
        ),
    ):
        if "copy" in typed[0] and not (tmp_path / "copy").exists():
            shutil.copytree(first, tmp_path / "copy")
        done = run("first", *typed, "overwrite=true")
        assert done.returncode == 1 and expected in done.stderr, done.stderr
        assert (first / "summary.json").is_file()
