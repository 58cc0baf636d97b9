"""Every mistake ends in one clear line with a remedy and status 1, and damages nothing."""

import json

import h5py
import numpy as np
import pytest
import torch

from reverie.training.files import lock_directory


@pytest.fixture
def recorded(tmp_path):
    """A file with D4RL's keys; keywords replace or add arrays."""

    def write(name="data.hdf5", **changes):
        rng = np.random.default_rng(0)
        rows = 60
        arrays = {
            "observations": rng.normal(size=(rows, 3)).astype(np.float32),
            "next_observations": rng.normal(size=(rows, 3)).astype(np.float32),
            "actions": rng.uniform(-1, 1, (rows, 1)).astype(np.float32),
            "rewards": rng.normal(size=rows).astype(np.float32),
            "terminals": np.zeros(rows, bool),
            "timeouts": np.arange(rows) % 20 == 19,
            **changes,
        }
        with h5py.File(tmp_path / name, "w") as file:
            for key, value in arrays.items():
                file[key] = value
        return tmp_path / name

    return write


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["agent.critcs=3"],
            "no setting 'agent.critcs' (did you mean agent.critics or agent.critic_steps?)",
        ),
        (["evaluate.evry=1"], "did you mean evaluate.every?"),
        (["algorithm=mopoo"], "algorithm=mopoo is not there; did you mean mopo"),
        (["dataset=builtin/pendulum"], "did you mean builtin/pendulum-mixed"),
        (["hydra/launcher=pbs"], "guide.md#sweeps says how to install more"),
        (["nothing=1"], "there is no setting 'nothing'"),
        (["seed=first"], "seed=first must be a whole number, at least 0"),
        (["device=cuda:77"], "use device=cpu"),
        (["compile=sometimes"], "use auto, true or false"),
        (["world_model=none"], "choose one, for example world_model=ensemble"),
        (["filter=morec", "dynamics_reward=none"], "for example dynamics_reward=adversarial"),
        (["dynamics_reward=plain"], "no filter of a source asks for it"),
        (["source=simulator"], "set filter=none"),
        (["simulator=perturbed"], "set source=simulator"),
        (["source=simulator", "simulator=none"], "for example simulator=perturbed"),
        (["algorithm=sac_sim", "simulator=world_model"], "simulator needs a world model"),
        (["algorithm=sac_sim", "simulator.gravity=0"], "simulator.gravity=0 must be a factor"),
        (["algorithm=sac_sim", "simulator.friction=2"], "Pendulum-v1 has no friction"),
        (["generator=trajectory"], "set source=trajectories, or generator=none"),
        (["sampler=heun"], "a sampler is chosen"),
        (["algorithm=pgd", "generator=none"], "for example generator=trajectory"),
        (["algorithm=synther", "guidance=policy"], "guidance works on windows"),
        (["algorithm=pgd", "noise_law=pfgmpp", "sampler=flow_sde"], "sampler=dpm_solver_2m"),
        (["noise_law=flow_matching"], "there is no generator to fit"),
        (["condition=returns"], "noise_law=none and condition=none"),
        (["warm_start=noisy"], "the source draws no records; set source=trajectories"),
        (["algorithm=synther", "warm_start=noisy"], "source.every=null draws once"),
        (["algorithm=pgd", "guidance=returns"], "set condition=returns"),
        (["algorithm=pgd", "guidance=soft_value"], "set sampler=soft_value"),
        (["algorithm=pgd", "guidance.behaviour_ratio=0.5"], "set behaviour=clone"),
        (
            [
                *("algorithm=pgd", "agent=bc", "sampler=soft_value"),
                *("guidance=soft_value", "guidance.value=critic"),
            ],
            "set guidance.value=reward, or another agent",
        ),
        (["simulator.gravity=2"], "simulator.gravity"),
        (
            ["seeds=2", "agent.discount=[0.9,0.99]"],
            "agent.target_entropy, filter.penalty; or sweep",
        ),
        (["real_fraction=1.5"], "real_fraction must lie in [0, 1], got 1.5"),
        (["agent.hidden=wide"], "agent cannot be built"),
        (["real_fraction=1.0"], "leaves no room in a batch of 256"),
        (["dataset=minari"], "dataset.id"),
        (["dataset=file"], "dataset.path"),
        (["dataset=file", "dataset.path=/no/such/file.hdf5"], "/no/such/file.hdf5"),
        (["world_model.path=/no/such/model.pt"], "/no/such/model.pt does not exist"),
        (["world_model.uncertainty=none"], "max_aleatoric"),
        (["world_model.termination=maybe"], "auto"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_wrong_setting_is_named_with_a_remedy(fails, environment, arguments, expected):
    if torch.cuda.is_available() and "device=cuda:77" in arguments:
        pytest.skip("there is a GPU here")
    assert expected in fails(*arguments)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rewards": np.full(60, np.nan, np.float32)}, "reward 60 NaN"),
        ({"rewards": np.zeros(59, np.float32)}, "59"),
        ({"actions": np.full((60, 1), 3.0, np.float32)}, "clip_actions"),
        ({"actions": np.zeros(60, np.int64)}, "discrete"),
    ],
    ids=["nan-rewards", "unequal-lengths", "actions-outside", "discrete-actions"],
)
def test_data_that_would_poison_training_are_refused(fails, recorded, changes, expected):
    path = recorded(**changes)
    message = fails("dataset=file", f"dataset.path={path}")
    assert expected in message and ("data.hdf5" in message or "dataset data" in message), message


def test_a_truncated_file_is_refused(fails, recorded):
    path = recorded()
    path.write_bytes(path.read_bytes()[:3000])
    assert "data.hdf5" in fails("dataset=file", f"dataset.path={path}")


def test_an_environment_with_discrete_actions_is_refused(fails, recorded):
    message = fails("dataset=file", f"dataset.path={recorded()}", "dataset.env_id=CartPole-v1")
    assert "CartPole-v1" in message and "discrete" in message.lower()


def test_an_environment_with_other_spaces_than_the_data_is_refused(fails, recorded):
    message = fails("dataset=file", f"dataset.path={recorded()}", "dataset.env_id=Hopper-v5")
    assert "Hopper-v5" in message and "3" in message and "11" in message


def test_an_unknown_environment_is_refused(fails, recorded):
    message = fails("dataset=file", f"dataset.path={recorded()}", "dataset.env_id=Pendulun-v1")
    assert "Pendulum-v1" in message


def test_a_download_that_cannot_be_reached_names_the_way_out(fails, environment, tmp_path):
    environment["D4RL_DATASET_DIR"] = str(tmp_path / "d4rl")
    environment["http_proxy"] = environment["https_proxy"] = "http://127.0.0.1:9"
    message = fails("dataset=d4rl/hopper-medium-v2")
    assert "dataset.path" in message
    assert not list((tmp_path / "d4rl").rglob("*.hdf5"))


@pytest.fixture
def finished(train, tmp_path):
    """The directory of a small finished run."""
    done = train("updates=20")
    assert done.returncode == 0, done.stderr
    (config,) = (tmp_path / "runs").rglob("config.yaml")
    return config.parent


def contents(directory):
    return {
        path.relative_to(directory): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_nothing_damages_a_finished_run(train, fails, command, finished):
    """Other settings, a second process, and checkpoints that do not belong there."""
    before = contents(finished)
    here = [*train.small, "updates=20", f"run_dir={finished}"]

    assert "filter.penalty=" in fails(*here, "filter.penalty=7.5")
    with lock_directory(finished):
        assert "another process is working in" in fails(*here)
    assert contents(finished) == before

    # Evaluation of a checkpoint of another kind, version or agent.
    run = f"run={finished}"
    saved = finished / "checkpoint.pt"
    whole = saved.read_bytes()
    record = torch.load(saved, weights_only=True)
    for change, expected in (
        ({"format": 99}, "another version of Reverie (format 99"),
        ({"reverie": "world model"}, "is not a checkpoint"),
        ({"identity": {**record["identity"], "agent": "agents.other.Other"}}, "agents.other.Other"),
    ):
        torch.save({**record, **change}, saved)
        assert expected in fails(run, script="evaluate.py")
    saved.write_bytes(whole[: len(whole) // 2])
    assert "is damaged" in fails(run, script="evaluate.py")

    # The same checkpoints refuse to be resumed, and stay as they are.
    (finished / "summary.json").unlink()
    assert "is damaged" in fails(*here)
    assert saved.read_bytes() == whole[: len(whole) // 2]
    torch.save({**record, "identity": {**record["identity"], "seeds": 3}}, saved)
    assert "seeds=3" in fails(*here)
    saved.write_bytes(whole)
    done = command("train.py", *here)
    assert done.returncode == 0 and "resuming" in done.stdout, done.stderr


def test_a_run_of_an_earlier_version_is_refused_with_a_remedy(call, train, finished, tmp_path):
    """Its classes had other names, so nothing of it can be built."""
    config = finished / "config.yaml"
    config.write_text(config.read_text().replace("_target_: reverie.", "_target_: "))
    for name in ("checkpoint.pt", "world_model.pt"):
        record = torch.load(finished / name, weights_only=True)
        torch.save({**record, "format": 1}, finished / name)
    summary = json.loads((finished / "summary.json").read_text())
    del summary["format"]
    (finished / "summary.json").write_text(json.dumps(summary))
    here = ["train", *train.small, "updates=20", f"run_dir={finished}"]

    def refused(*arguments):
        status, _, error, twice = call("console", *arguments)
        assert (status, error.count("\n"), twice) == (1, 1, {}), error
        return error

    for name in ("evaluate", "ope", "distil"):
        assert "another version of Reverie (format 1" in refused(name, f"run={finished}")
    written = refused("report", str(finished), "--output", str(tmp_path / "report"))
    assert "was written by another version of Reverie" in written
    assert "_target_=" in refused(*here)
    model = f"world_model.path={finished / 'world_model.pt'}"
    other = [f"run_dir={tmp_path / 'other'}", model]
    assert "another version of Reverie" in refused("train", *train.small, *other)
    (finished / "summary.json").unlink()
    assert "_target_=" in refused(*here)
    status, _, error, _ = call("console", *here, "overwrite=true")  # the remedy
    assert status == 0, error


def test_evaluating_what_is_no_run_says_so(fails, tmp_path):
    assert "holds no config.yaml" in fails(f"run={tmp_path}", script="evaluate.py")


def test_overwriting_spares_what_is_no_run(fails, tmp_path):
    precious = tmp_path / "mine" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("years of work")
    message = fails(f"run_dir={precious.parent}", "overwrite=true")
    assert "leaves it alone" in message and precious.read_text() == "years of work"


def test_overwriting_starts_over_only_when_the_settings_make_sense(train, fails, command, finished):
    here = [*train.small, "updates=20", f"run_dir={finished}", "overwrite=true"]
    before = contents(finished)
    fails(*here, "compile=sometimes")
    assert contents(finished) == before
    done = command("train.py", *here)
    assert done.returncode == 0 and "resuming" not in done.stdout and "finished" not in done.stdout
    assert (finished / "checkpoint.pt").stat().st_mtime > 0


def test_a_full_disk_ends_in_one_line_and_spares_what_is_there(train, finished, tmp_path):
    """A limit on file sizes stands for the disk: the operating system refuses the write."""
    before = contents(finished)
    done = train("updates=20", "seed=5", limit=8192)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert "could not write" in line and "free some disk space" in line
    assert contents(finished) == before
    assert not list(tmp_path.rglob("*.part"))
