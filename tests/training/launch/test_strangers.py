"""Runs of strangers: nothing that their files name is run, built or imported."""

import pickle
import shutil
import sys
from functools import partial

import gymnasium
import pytest
import torch

import reverie
from reverie import evaluate as evaluation
from reverie.agents.td3_bc import TD3BC
from reverie.mistake import Mistake
from reverie.training.checkpoint import read_facts
from reverie.training.distil.__main__ import distil
from reverie.training.export.__main__ import export
from reverie.training.files import load_tensors, save_tensors
from reverie.training.launch.make import compose_command
from reverie.training.ope.__main__ import evaluate as ope
from reverie.training.stored import read_settings, write_settings

SMALL = {
    "algorithm=td3_bc": None,
    "dataset": {"episodes": 4},
    "agent": {"hidden": [4]},
    "updates": 2,
    "log_every": 1,
    "batch_size": 8,
    "evaluate": {"every": 0},
    "probe_starts": 0,
    "threads": 1,
}
COMMANDS = {
    "load": lambda run, **more: reverie.load(run, **more),
    "evaluate": lambda run, **more: evaluation.score(
        compose_command("evaluate", run=str(run), episodes=1, **more)
    ),
    "ope": lambda run, **more: ope(
        compose_command("ope", run=str(run), starts=2, fqe={"updates": 1, "hidden": [4]}, **more)
    ),
    "distil": lambda run, **more: distil(compose_command("distil", run=str(run), **more)),
    "export": lambda run, **more: export(
        compose_command("export", run=str(run), format="numpy", decisions=1, **more)
    ),
    "plan": lambda run, **more: evaluation.score(
        compose_command("evaluate", run=str(run), episodes=1, planner="diffusion", **more)
    ),
}


def small(*overrides, **changes):
    settings = {key: value for key, value in SMALL.items() if "=" not in key}
    return reverie.make("algorithm=td3_bc", *overrides, **{**settings, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strangers") / "run"
    small().train(folder)
    return folder


@pytest.fixture
def run_dir(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def rewrite(run_dir, change):
    """A run whose files agree with each other in what a stranger made of its settings."""
    settings = read_settings(run_dir / "config.yaml")
    change(settings)
    (run_dir / "config.yaml").write_text(write_settings(settings))
    record = load_tensors(run_dir / "checkpoint.pt", "checkpoint")
    save_tensors(run_dir / "checkpoint.pt", "checkpoint", {**record, "settings": settings})


def rewrite_spec(run_dir, **changes):
    record = load_tensors(run_dir / "checkpoint.pt", "checkpoint")
    spec = {**record["spec"], **changes}
    save_tensors(run_dir / "checkpoint.pt", "checkpoint", {**record, "spec": spec})


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A file that is there once anything of the stranger's ran; his modules can be found."""
    canary = tmp_path / "canary"
    (tmp_path / "pickled.npy").write_bytes(pickle.dumps(Touch(str(canary))))
    (tmp_path / "evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass Foo:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(reverie, "__path__", [*reverie.__path__, str(tmp_path)])
    yield canary
    assert not canary.exists()
    assert "evil" not in sys.modules and "reverie.evil" not in sys.modules


def evil(tmp_path, target):
    """A node that leaves the canary where Hydra builds it."""
    canary, pickled = str(tmp_path / "canary"), str(tmp_path / "pickled.npy")
    arguments = {
        "numpy.load": {"file": pickled, "allow_pickle": True},
        "torch.load": {"f": pickled, "weights_only": False},
        "reverie.agents.sac.torch.load": {"f": pickled, "weights_only": False},
        "joblib.load": {"filename": pickled},
        "pathlib.Path.write_text": {
            "self": {"_target_": "pathlib.Path", "_args_": [canary]},
            "data": "x",
        },
        "os.system": {"command": f"touch {canary}"},
        "builtins.eval": {"_args_": [f"open({canary!r}, 'w')"]},
        "functools.partial": {"_args_": [{"_target_": "builtins.open", "_args_": [canary, "w"]}]},
        "reverie.training.files.write_text": {
            "path": {"_target_": "pathlib.Path", "_args_": [canary]},
            "text": "x",
        },
        "reverie.reverie.training.files.write_text": {"path": canary, "text": "x"},
        "reverie.agents.sac.SAC.load_state_dict": {"state_dict": {}},
        "reverie.datasets.readers.minari.root_set_to": {"root": canary},
        "reverie.training.collect.__main__.collect": {"config": {}, "overrides": []},
    }
    return {"_target_": target, **arguments.get(str(target), {})}


TARGETS = (
    "numpy.load",
    "torch.load",
    "joblib.load",
    "pathlib.Path.write_text",
    "os.system",
    "builtins.eval",
    "functools.partial",
    "evil.Foo",
    "run.evil.Foo",
    "reverie.evil.Foo",
    "reverie.os.system",
    "reverie.agents.sac.torch.load",
    "reverie.agents.sac.SAC.load_state_dict",
    "reverie.agents.sac.Agent",  # which it only imports
    "reverie.world_models.filters.KeepAll",  # another kind
    "reverie.training.files.write_text",
    "reverie.reverie.training.files.write_text",
    "reverie.datasets.readers.minari.root_set_to",
    "reverie.training.collect.__main__.collect",
    "reverie.nothing.at.All",
    "reverie.agents.nothing.All",
    "..",
    "",
    7,
    ["os.system"],
)


PLACES = ("agent", "agent.regulariser", "dataset", "agent.hidden", "world_model", "logger", "x.y")
EVERYWHERE = ("evil.Foo", "os.system", "reverie.training.files.write_text", 7)


@pytest.mark.parametrize(
    ("target", "key"),
    [
        (target, key)
        for target in TARGETS
        for key in (PLACES if target in EVERYWHERE else PLACES[:3])
    ],
    ids=str,
)
def test_no_target_of_a_stranger_is_built(run_dir, canary, tmp_path, target, key):
    def put(settings):
        *above, last = key.split(".")
        node = settings
        for name in above:
            node = node.setdefault(name, {})
        made = evil(tmp_path, target)
        node[last] = [made] if last == "hidden" else made

    rewrite(run_dir, put)
    for allow in ((), (str(target),)):
        if allow and ("Foo" in str(target)):
            continue
        with pytest.raises(Mistake, match=r"config\.yaml") as caught:
            reverie.load(run_dir, allow=allow)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_a_strangers_target(run_dir, canary, tmp_path, command):
    for target in ("os.system", "evil.Foo", "numpy.load"):
        rewrite(run_dir, lambda settings, it=target: settings.update(agent=evil(tmp_path, it)))
        with pytest.raises(Mistake, match=rf"agent._target_.* {target}.* add allow={target} "):
            COMMANDS[command](run_dir)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("where", ["checkpoint.pt", "config.yaml"])
def test_an_environment_with_a_module_is_not_imported(run_dir, canary, command, where):
    if where == "checkpoint.pt":
        rewrite_spec(run_dir, env_id="evil:Foo-v0")
    else:
        rewrite(run_dir, lambda settings: settings["dataset"].update(env_id="evil:Foo-v0"))
    with pytest.raises(Mistake, match=rf"{where} names the environment evil:Foo-v0.*add allow="):
        COMMANDS[command](run_dir)


def test_environments_that_import_others_are_refused(run_dir):
    rewrite_spec(run_dir, env_id="GymV26Environment-v0", env_kwargs={"env_id": "evil:Foo"})
    with pytest.raises(Mistake, match=r"GymV26Environment-v0.*allow=GymV26Environment-v0"):
        reverie.load(run_dir)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "${oc.env:HOME}"}, r"its name is the interpolation \$\{oc.env:HOME\}"),
        ({"x": [{"y": "a ${hydra:runtime.cwd} b"}]}, r"its x\.y is the interpolation"),
        ({"agent": {"_target_": "${oc.env:X}"}}, "its agent._target_ is .*, which names no"),
        ({"agent": {"_target_": "reverie.agents.bc.BC", "_args_": [1]}}, "its agent holds _args_"),
        ({"agent": {"hidden": [4]}}, "its agent has no _target_"),
        ({"agent": "sac"}, "its agent is 'sac'"),
        ({"dataset": [1]}, r"its dataset is \[1\]"),
        ({"seeds": True}, "its seeds is True"),
        ({"updates": "many"}, "its updates is 'many'"),
        ({"world_model": 3}, "its world_model is 3"),
        ({"world_model": {"_target_": "reverie.a.B", "path": 3}}, r"its world_model.path is 3"),
    ],
)
def test_settings_are_plain_values_of_the_right_kinds(run_dir, change, message):
    rewrite(run_dir, lambda settings: settings.update(change))
    with pytest.raises(Mistake, match=rf"config.yaml is damaged \({message}.*restore it"):
        reverie.load(run_dir)


@pytest.mark.slow
def test_what_the_user_names_is_imported(tmp_path, monkeypatch):
    (tmp_path / "my_things.py").write_text(
        "import gymnasium\n"
        "from gymnasium.envs.classic_control.pendulum import PendulumEnv\n"
        "from reverie.agents.td3_bc import TD3BC\n"
        "class Mine(TD3BC):\n    pass\n"
        "gymnasium.register('Mine-v0', entry_point=PendulumEnv, max_episode_steps=5)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run_dir = tmp_path / "run"
    dataset = {"_target_": "reverie.datasets.readers.builtin.load_random"}
    typed = ("dataset=random", "dataset.env_id=my_things:Mine-v0", "dataset.steps=40")
    small(*typed, "agent._target_=my_things.Mine", dataset=None).train(run_dir)
    assert read_settings(run_dir / "config.yaml")["dataset"]["_target_"] == dataset["_target_"]
    small(*typed, "agent._target_=my_things.Mine", dataset=None).train(run_dir)  # typed is enough

    names = ["my_things:Mine-v0", "my_things.Mine"]
    for allow in ([], names[:1], names[1:]):
        (lacking,) = [name for name in names if name not in allow][:1]
        with pytest.raises(Mistake, match=rf"names .*{lacking}.*add allow="):
            COMMANDS["evaluate"](run_dir, allow=allow)
    assert COMMANDS["evaluate"](run_dir, allow=names) is not None
    COMMANDS["ope"](run_dir, allow=names)
    assert type(reverie.load(run_dir, allow=names).agent).__name__ == "Mine"
    with pytest.raises(Mistake, match="allow=3 is no name"):
        reverie.load(run_dir, allow=[3])
    del gymnasium.registry["Mine-v0"]


def test_a_class_beside_ours_is_one_of_ours(run_dir, monkeypatch):
    """As docs/extending.md says: a file in agents/, which a stranger cannot write."""
    import reverie.agents.td3_bc as module

    Own = type("Own", (TD3BC,), {"__module__": module.__name__})
    monkeypatch.setattr(module, "Own", Own, raising=False)
    target = f"{module.__name__}.Own"
    rewrite(run_dir, lambda settings: settings["agent"].update(_target_=target))
    with pytest.raises(Mistake, match=r"agent=reverie.agents.td3_bc.TD3BC, this run has .*Own"):
        reverie.load(run_dir)  # it is built; the checkpoint is another agent's
    partial(Own)


def test_a_flipped_digit_in_the_settings_is_found(run_dir):
    config = run_dir / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("regulariser: null", "regulatiser: null"))
    with pytest.raises(Mistake, match=r"it says agent.regulariser=nothing, and .* None"):
        reverie.load(run_dir)
    config.write_text(text.replace("discount: 0.99", "discount: 0.98"))
    with pytest.raises(Mistake, match=r"it says agent.discount=0.98, .* 0.99.*restore it, or del"):
        reverie.load(run_dir)
    config.unlink()  # the remedy, for a finished run too
    small().train(run_dir)
    assert config.read_text() == text and reverie.load(run_dir).update == 2
    config.unlink()
    with pytest.raises(Mistake, match=r"holds a run with agent.discount=0.99, this one has"):
        small(agent={"hidden": [4], "discount": 0.5}).train(run_dir)
    assert not config.exists()


def test_data_may_have_moved(run_dir):
    config = run_dir / "config.yaml"
    config.write_text(config.read_text().replace("dataset:\n", "dataset:\n  path: elsewhere\n"))
    assert reverie.load(run_dir).update == 2


def test_nothing_is_fetched_for_a_file(run_dir, tmp_path, monkeypatch):
    """A stranger would choose what is written there."""
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    fetched = {
        "_target_": "reverie.datasets.readers.d4rl.load",
        **{"id": "hopper-medium-v2", "name": "x", "path": None, "env_id": None, "physics": "as-is"},
        **{"compat": None, "max_episode_steps": None, "clip_actions": False, "sha256": None},
        "mirrors": [f"file://{tmp_path}/{{file}}"],
    }
    (tmp_path / "hopper_medium-v2.hdf5").write_text("evil")
    rewrite(run_dir, lambda settings: settings.update(dataset=fetched))
    with pytest.raises(Mistake, match=r"cannot be read: .*nothing is fetched"):
        reverie.load(run_dir).load_dataset()
    assert not list(tmp_path.rglob("d4rl/*.hdf5"))


@pytest.mark.parametrize(
    ("part", "values"),
    [("reference", {"low": (1.0,)}), ("reference", {"high": "x"}), ("spec", {"obs_dim": "x"})],
)
def test_the_task_of_a_checkpoint_has_the_right_types(run_dir, part, values):
    path = run_dir / "checkpoint.pt"
    record = torch.load(path, weights_only=True)
    whole = {"low": 0.0, "high": 1.0, "source": "x"} | (record["reference"] or {})
    before = whole if part == "reference" else record[part]
    save_tensors(path, "checkpoint", record | {part: before})
    read_facts(path)
    save_tensors(path, "checkpoint", record | {part: before | values})
    with pytest.raises(
        Mistake, match=rf"checkpoint\.pt is damaged \({part}\.{next(iter(values))} must"
    ):
        read_facts(path)


def test_a_malicious_checkpoint_is_refused_without_torchs_advice(run_dir, canary):
    torch.save({"reverie": "checkpoint", "format": 2, "x": Touch(str(canary))}, run_dir / "a.pt")
    for path in (run_dir / "a.pt", run_dir.parent / "pickled.npy"):
        with pytest.raises(Mistake, match=r"load it in no other way") as caught:
            read_facts(path)
        assert "weights_only" not in str(caught.value) and "False" not in str(caught.value)
