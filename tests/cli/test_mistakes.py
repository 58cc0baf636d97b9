"""A mistake ends in one clear line with a remedy and status 1, a defect shows its traceback."""

import errno
import json
import re
from collections.abc import Sequence
from functools import partial

import h5py
import numpy as np
import pytest
import torch
import yaml
from hydra.errors import ConfigCompositionException

from reverie.mistake import Mistake, writing
from reverie.training.files import lock_directory
from reverie.training.launch.mistakes import DEFECT, build, explain
from reverie.training.run_directory import MARKER
from tests.cases import some


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
    some(
        [
            (
                ["agent.critcs=3"],
                "no setting 'agent.critcs' (did you mean agent.critics or agent.critic_steps?)",
            ),
            (["evaluate.evry=1"], "did you mean evaluate.every?"),
            (["algorithm=mopoo"], "algorithm=mopoo is not there; did you mean mopo"),
            (["algorithm=TD3-BC"], "algorithm=TD3-BC is not there; did you mean td3_bc?"),
            (["--algorithm", "mopo"], "settings are typed without dashes, as algorithm=mopo"),
            (["--agent.tau=0.1", "seed=1"], "without dashes, as agent.tau=0.1"),
            (["--run", "runs/a", "--cfg", "job"], "as run=runs/a; train.py calls it run_dir="),
            (["--run", "a=b", "--cfg", "job"], "--run and --cfg do not go together"),
            (["--resolve"], "type --cfg job --resolve"),
            (["inverse_model.past=2"], "with inverse_model=none; choose inverse_model=ensemble"),
            (["world_model.activation=foo"], "activation=foo must be relu or silu or tanh"),
            (["dataset=builtin/pendulum"], "did you mean builtin/pendulum-mixed"),
            (["dataset=logs/a.csv"], "a file is given as dataset=table dataset.path=logs/a.csv"),
            (["dataset=docs"], "a folder of tables is given as dataset=table dataset.path=docs"),
            (["docs"], "docs is a folder; a run is given as run=docs, to train.py as run_dir=..."),
            (["dataset=my.hdf5"], "a file is given as dataset=file dataset.path=my.hdf5"),
            (
                ["dataset=table", "dataset.columns=[]"],
                "dataset.columns=[] is of another kind than that",
            ),
            (["source=[0]"], "source=[0] must be the name of an option; source has branched"),
            (["device=true"], "device=True must be text"),
            (["agent.regulariser=[0]"], "agent.regulariser=[0] must be"),
            (["agent._partial_=false"], "agent._partial_ is no setting"),
            (["dynamics_reward=&a"], "dynamics_reward=&a cannot be read"),
            (
                ["dataset=table", "dataset.columns={actions: Öl, observations: [T, Wärme]}"],
                """type 'dataset.columns={actions: "Öl", observations: [T, "Wärme"]}'""",
            ),
            (
                ["dataset=table", "dataset.columns={actions: valve [%]}"],
                """quotes of their own, as in 'dataset.columns={actions: "valve [%]"}'""",
            ),
            (["dataset.task=[abc]"], "dataset.task=[abc] must be text"),
            (["agent=null"], "agent=null must be the name of an option; agent has analytic, awac"),
            (["hydra/launcher=pbs"], "sweeps.md says how to install launchers"),
            (["nothing=1"], "there is no setting 'nothing'"),
            (["seed=first"], "seed=first must be a whole number, in [0, 9"),
            (["device=cuda:77"], "use device=cpu"),
            (["compile=sometimes"], "use auto, true or false"),
            (["world_model=none"], "choose one, for example world_model=ensemble"),
            (["filter=morec", "dynamics_reward=none"], "for example dynamics_reward=adversarial"),
            (["dynamics_reward=plain"], "no filter of a source asks for it"),
            (["source=simulator"], "set filter=none"),
            (["simulator=perturbed"], "set source=simulator"),
            (["source=simulator", "simulator=none"], "for example simulator=perturbed"),
            (["algorithm=sac_sim", "simulator=world_model"], "simulator needs a world model"),
            (
                ["algorithm=sac_sim", "simulator.gravity=0"],
                "gravity=0 must be a number, above 0",
            ),
            (["algorithm=sac_sim", "simulator.friction=2"], "Pendulum-v1 has no friction"),
            (["generator=trajectory"], "set source=trajectories, or generator=none"),
            (["sampler=heun"], "a sampler is chosen"),
            (["algorithm=pgd", "generator=none"], "for example generator=trajectory"),
            (["algorithm=synther", "guidance=policy"], "guidance works on segments"),
            (
                ["algorithm=pgd", "noise_distribution=pfgmpp", "sampler=flow_sde"],
                "sampler=dpm_solver_2m",
            ),
            (["noise_distribution=flow_matching"], "there is no generator to fit"),
            (["condition=returns"], "noise_distribution=none and condition=none"),
            (["forcing=alpha", "world_model=true_dynamics"], "set forcing=none, or world_model="),
            (["algorithm=sac", "forcing=adaptive"], "does not learn from windows"),
            (["forcing=alpha", "world_model.forcing.alpha=2"], "forcing.alpha=2 must be"),
            (["forcing=alpha", "world_model.forcing.steps=0"], "steps=0 must be"),
            (["world_model.forcing=3"], "world_model.forcing=3 must be settings, as"),
            (
                ["world_model=forced", "world_model.forcing=null"],
                "forcing=None must be keys with values; leave it out",
            ),
            (["world_model.forcing=alpha"], "forcing=... chooses from adaptive, alpha, none"),
            (["agent=darc", "agent.discriminators=null"], "or in braces; leave it out"),
            (
                ["world_model=sindy", "world_model.refinement.patience=0"],
                "refinement.patience=0 must be",
            ),
            (["algorithm=mbpo_online", "forcing=alpha"], "set online.refit_every=0"),
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
            (["model_updates=adversarial", "agent=bc"], "model_updates=none, or choose agent=sac"),
            (["algorithm=sac", "model_updates=adversarial"], "no world model to train"),
            (["model_updates=adversarial", "source=none", "filter=none"], "set source=branched"),
            (["algorithm=mbpo_online", "model_updates=adversarial"], "set online.refit_every=0"),
            (["model_updates=adversarial", "world_model=sindy"], "set world_model=ensemble"),
            (["algorithm=td3_bc", "pretraining=clone"], "set pretraining=none, or choose agent"),
            (["algorithm=rambo", "init=runs/first"], "set pretraining=none, or leave init out"),
            (["model_updates.weight=1"], "model_updates.weight"),
            (["filter=none", "filter.penalty=3"], "with filter=none; choose filter=morec or"),
            (["agent.discriminators.noise=1"], "with the chosen agent; choose agent=darc or"),
            (
                ["seeds=2", "agent.discount=[0.9,0.99]"],
                "agent.target_entropy, agent.imitation, filter.penalty; or sweep",
            ),
            (["real_ratio=1.5"], "real_ratio=1.5 must lie in [0, 1]"),
            (
                ["dataset=minari", "dataset.id=a/b-v0", "dataset.obs_slice=3"],
                "there is no setting 'dataset.obs_slice' with dataset=minari; choose dataset=",
            ),
            (["dataset=file,table", "dataset.path=x", "-m"], "say ++dataset.path=..."),
            (["updates={a:1}"], "updates={'a': 1} must be a whole number"),
            (["name=null"], "name=None must be text"),
            (["verdict=null"], "verdict=null must be keys with values; leave it out, and set what"),
            (["evaluate=0"], "it holds, such as evaluate.every=..."),
            (["threads=100000"], "threads=100000 must be auto or a whole number, in [1, 1024]"),
            (["verdict.fqe.hidden=???"], "verdict.fqe.hidden=??? is no value; give one"),
            (["dataset.mixture=[-1,2]"], "dataset.mixture=[-1, 2] must be a list, each entry keys"),
            (["verdict.fqe.activation=[1]"], "verdict.fqe.activation=[1] must be relu or"),
            (["algorithm=mopo", "source.horizon='#'"], "source.horizon=# must be"),
            (["video=true"], "there is no setting 'video'"),  # which another command has
            (["fqe.updates=3"], "there is no setting 'fqe.updates'"),
            (
                ["agent.hidden=wide"],
                "agent.hidden=wide must be a list, each entry a whole number",
            ),
            (["agent.hidden=[-3]"], "agent.hidden=[-3] must be a list"),
            (
                ["+agent.colour=red"],
                "there is no setting 'agent.colour' with agent=sac",
            ),
            (["threads=0"], "threads=0 must be auto or a whole number, in [1, 1024]"),
            (["device=abacus"], "device=abacus is unknown; use auto, cpu"),
            (["cache=/proc/nowhere"], "REVERIE_CACHE"),
            (["real_ratio=1.0"], "leaves no room in a batch of 256"),
            (["dataset=minari"], "dataset.id"),
            (["dataset=file"], "dataset.path"),
            (["dataset=file", "dataset.path=/no/such/file.hdf5"], "/no/such/file.hdf5"),
            (["world_model.path=/no/such/model.pt"], "/no/such/model.pt does not exist"),
            (["world_model.uncertainty=none"], "max_aleatoric"),
            (["world_model.termination=maybe"], "auto"),
        ],
        3,
    ),
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
    assert expected in message and "data.hdf5" in message, message


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


def test_what_an_environment_does_wrong_names_it(command, own_module, recorded, tmp_path):
    own_module("tasks", TASK)
    data = ("dataset=file", f"dataset.path={recorded()}", "dataset.env_id=tasks:Old-v0")
    short = ("updates=10", "evaluate.every=10", "batch_size=8", "threads=1")
    done = command("train.py", "algorithm=bc", *data, *short, f"root={tmp_path / 'runs'}")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "environment tasks:Old-v0: its step does not return (observation, reward, " in line
    assert "Traceback" not in done.stderr


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


@pytest.mark.parametrize(
    "readers",
    some([["evaluate"], ["ope"], ["distil"], ["export", "format=c"]], 4),
    ids=lambda words: words[0],
)
def test_a_run_of_an_earlier_version_is_refused_with_a_remedy(
    call, train, finished, tmp_path, readers
):
    """Its classes had other names, so nothing of it can be built."""
    config = finished / "config.yaml"
    config.write_text(config.read_text().replace("_target_: reverie.", "_target_: "))
    for name in ("checkpoint.pt", "world_model.pt"):
        record = torch.load(finished / name, weights_only=True)
        torch.save({**record, "format": 1}, finished / name)
    summary = json.loads((finished / "summary.json").read_text())
    del summary["format"], summary["sha256"]  # it wrote neither
    (finished / "summary.json").write_text(json.dumps(summary))
    here = ["train", *train.small, "updates=20", f"run_dir={finished}"]

    def refused(*arguments):
        status, _, error, twice = call("console", *arguments)
        assert (status, error.count("\n"), twice) == (1, 1, {}), error
        return error

    name, *more = readers
    assert "another version of Reverie (format 1" in refused(name, f"run={finished}", *more)
    written = refused("report", str(finished), "--output", str(tmp_path / "report"))
    assert "was written by another version of Reverie" in written
    assert "_target_=" in refused(*here)
    model = f"world_model.path={finished / 'world_model.pt'}"
    other = [f"run_dir={tmp_path / 'other'}", model]
    assert "another version of Reverie" in refused("train", *train.small, *other)
    (finished / "summary.json").unlink()
    assert "_target_=" in refused(*here)
    (finished / MARKER).unlink()  # which earlier versions did not write
    assert "left alone; give another run_dir" in refused(*here, "overwrite=true")
    again = here[:-1]
    status, _, error, _ = call("console", *again, f"root={tmp_path / 'again'}")  # the remedy
    assert status == 0, error


def test_evaluating_what_is_no_run_says_so(fails, tmp_path):
    assert "holds no config.yaml" in fails(f"run={tmp_path}", script="evaluate.py")


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


TASK = """
import gymnasium
import numpy as np

class Old(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-9.0, 9.0, (3,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed=None, options=None):
        return np.zeros(3, np.float32), {}

    def step(self, action):
        return np.zeros(3, np.float32), 0.0, True, {}

gymnasium.register("Old-v0", entry_point=Old, max_episode_steps=5)
"""

BUGS = """
import torch
from reverie.agents.sac import SAC

class Shapes(SAC):
    def update(self, batch):
        return {"loss": torch.zeros(2, 3) @ torch.zeros(2, 3)}

class Body(SAC):
    def __init__(self, **others):
        super().__init__(**others)
        len(3)

class Narrow(SAC):
    def __init__(self, *, spec, seeds, critics):
        pass
"""


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        ("Shapes", "RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
        ("Body", "TypeError: object of type 'int' has no len()"),
    ],
)
def test_a_bug_in_a_new_agent_shows_its_traceback(train, own_module, tmp_path, agent, expected):
    own_module("bugs", BUGS)
    done = train(f"agent._target_=bugs.{agent}")
    (kept,) = (tmp_path / "runs").rglob("failed.json")
    *shown, last = done.stderr.strip().splitlines()
    assert done.returncode == 1 and shown[-1].startswith(expected), done.stderr
    assert any("bugs.py" in line for line in shown)
    assert last == f"{DEFECT}; {kept} keeps this traceback"
    record = json.loads(kept.read_text())
    assert record["defect"] and record["reason"].startswith(expected)
    assert expected in record["traceback"]


def test_what_a_new_agent_lacks_is_a_mistake_and_what_its_module_lacks_is_none(
    train, own_module, environment
):
    own_module("bugs", BUGS)
    done = train("agent._target_=bugs.Narrow")
    assert "agent cannot be built: Narrow has no setting" in done.stderr
    assert "Traceback" not in done.stderr
    environment["REVERIE_TRACEBACK"] = "1"
    done = train("agent._target_=bugs.Narrow")
    assert "Traceback" in done.stderr and "Narrow has no setting" in done.stderr.splitlines()[-1]
    done = train("agent._target_=bugs.Missing")
    assert "error: _target_=bugs.Missing is not there" in done.stderr.splitlines()[-1]
    own_module("needs", "import nowhere_to_be_found")
    done = train("agent._target_=needs.Agent")
    assert "No module named 'nowhere_to_be_found'" in done.stderr
    assert done.stderr.splitlines()[-1] == DEFECT


class Made:
    def __init__(self, *, width: int, rate: float | Sequence[float], words: str | None, own=3):
        if width > 5:
            len(width)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (dict(width="wide", rate=1, words=None), "part.width=wide must be a whole number"),
        (dict(width=True, rate=1, words=None), "part.width=True must be a whole number"),
        (dict(width=1, rate=1, words=2), "part.words=2 must be text or null"),
        (dict(width=1, rate=["a"], words="b"), "part.rate=[a] must be a number or a list"),
        (
            dict(width=1, rate=0.5, words=None, hue=3),
            "part cannot be built: Made has no setting hue",
        ),
        (dict(width=1, words=None), "part cannot be built: Made needs the setting rate"),
        (dict(width=9, rate=[0, 0.5], words="b"), TypeError),
    ],
)
def test_a_setting_that_does_not_fit_is_told_from_a_defect(settings, expected):
    def making():
        return build("part", partial(Made, **settings), own=4)

    if isinstance(expected, str):
        with pytest.raises(Mistake, match=f"^{re.escape(expected)}"):
            making()
    else:
        with pytest.raises(expected) as caught:
            making()
        assert explain(caught.value) is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Mistake("seeds=0\nis none; use 1"), "seeds=0 is none; use 1"),
        (ValueError("shapes differ"), None),
        (RuntimeError("shapes differ"), None),
        (TypeError("got an unexpected keyword argument 'x'"), None),
        (FileNotFoundError(2, "No such file"), None),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (MemoryError("8 GiB"), "out of memory (8 GiB); lower seeds=, batch_size="),
        (yaml.YAMLError("a.yaml, line 3"), "a.yaml, line 3"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_what_a_user_can_mend_is_explained(error, expected):
    told = explain(error)
    assert (told is None) == (expected is None) and (expected is None or expected in told)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ("dataset.path", "python train.py 'init=my runs/0' updates=1 run_dir=NEW with the run's"),
        ("agent.hidden", "agent.hidden belongs to the run, which is read as it was trained"),
        ("fqe.update", "did you mean fqe.updates"),
        ("world_model.hidden", "with the chosen world_model; choose world_model="),
    ],
)
def test_a_setting_of_training_belongs_to_a_run_that_is_judged(wrong, expected):
    error = ConfigCompositionException(f"Could not override '{wrong}'.")
    assert expected in explain(error, ["run=my runs/0", f"{wrong}=1"])
    assert "belongs to" not in explain(error, [f"{wrong}=1"])


def test_what_cannot_be_written_names_the_path_and_the_reason(tmp_path):
    (tmp_path / "file").write_text("")
    expected = r"could not write .*x: Not a directory; elsewhere"
    with (
        pytest.raises(Mistake, match=expected) as caught,
        writing(tmp_path / "x", "elsewhere"),
    ):
        (tmp_path / "file" / "x").write_text("")
    assert isinstance(caught.value.__cause__, OSError)
