"""Runs on histories: trained, killed and resumed, evaluated, judged, exported, told by check."""

import json

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import reverie
from reverie.evaluate import score
from reverie.mistake import Mistake
from reverie.training.collect.__main__ import require_sense
from reverie.training.export import __main__ as export
from reverie.training.export import c_files
from reverie.training.export.numpy_files import load
from reverie.training.export.world_model import require_ensemble
from reverie.training.launch import check as checker
from reverie.training.launch.make import compose_command
from reverie.training.launch.options import build_option
from reverie.training.ope.__main__ import evaluate as ope
from reverie.training.run_directory import METRICS

SMALL = (
    *("dataset=builtin/pendulum-mixed", "dataset.episodes=12", "dataset.hide=[2]", "updates=20"),
    *("dataset.history=3", "batch_size=32", "agent.hidden=[16,16]", "evaluate.every=10"),
    *("evaluate.episodes=1", "log_every=5", "checkpoint_every=5", "probe_starts=0", "threads=1"),
    *("value_gap.starts=2", "verdict.starts=4", "verdict.fqe.updates=10"),
    *("verdict.fqe.hidden=[8]", "verdict.doubly_robust.updates=0"),
)
MODEL = (
    *("world_model.hidden=[16]", "world_model.weight_decay=[0.0,0.0]", "world_model.max_epochs=1"),
    *("source.starts=20", "source.every=10", "source.horizon=3"),
)


class Killed(BaseException):
    """Ends a process where a test says so."""


def make(*changes, algorithm="td3_bc"):
    model = MODEL if algorithm == "mopo" else ()
    return reverie.make(f"algorithm={algorithm}", *SMALL, *model, *changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("history") / "run"
    make("seeds=2", "verdict.starts=0").train(folder)
    return folder


def test_a_run_learns_from_histories_and_is_scored_with_them(finished):
    saved = reverie.load(finished)
    assert (saved.spec.obs_dim, saved.spec.hidden) == (8, (2,))
    origin = saved.summary["dataset"]["origin"]
    assert origin["history"] == "3 observations, 2 actions" and "obs 2" in origin["hidden"]
    assert np.isfinite(score(compose_command("evaluate", run=str(finished), episodes=1)))


@pytest.mark.slow
def test_a_killed_run_with_a_world_model_ends_with_the_same_bits(tmp_path):
    def kill(update, episodes):
        if update == 10:
            raise Killed

    whole, again = tmp_path / "whole", tmp_path / "again"
    make("seeds=2", algorithm="mopo").train(whole)
    run = make("seeds=2", algorithm="mopo")
    run.on_evaluation = kill
    with pytest.raises(Killed):
        run.train(again)
    make("seeds=2", algorithm="mopo").train(again)
    assert (whole / METRICS).read_text() == (again / METRICS).read_text()
    one, other = (reverie.load(folder) for folder in (whole, again))
    state = one.agent.state_dict()
    assert all(torch.equal(each, state[name]) for name, each in other.agent.state_dict().items())
    assert one.load_part("world_model").gaussians.learned.tolist() == [0, 1, 8]
    settings = {"threads": 1, "starts": 4, "fqe": {"updates": 10, "hidden": [8]}}
    ope(compose_command("ope", run=str(whole), true_return=True, episodes=1, **settings))


def test_online_steps_and_other_agents_see_histories():
    online = make("online=collect", "online.refit_every=0", "online.every=5", "verdict.starts=0")
    online.train()
    real = online.mixture["real"]
    rows = real.layout.unpack(real.rows[:, :4])
    assert torch.equal(rows.next_obs[..., 2:4], rows.obs[..., :2])
    make("verdict.starts=0", algorithm="rvs").train()
    assert make("dataset.history=null").data.spec.obs_dim == 2


def exported(finished, format):
    output = finished / "files"
    settings = {"tests": 16, "decisions": 3, "format": format, "output": str(output), "seed": 1}
    measured = export.export(compose_command("export", run=str(finished), **settings))
    return output / format, measured[format]


def test_an_exported_controller_keeps_its_history(finished, capsys):
    folder, measured = exported(finished, "numpy")
    assert measured.difference < 1e-5
    assert "newest first: the last 3 observations of 2 columns, then" in capsys.readouterr().out
    manifest = json.loads((folder / "manifest.json").read_text())
    history = manifest["history"]
    assert (history["observations"], history["columns_of_each"], history["actions"]) == (3, 2, 2)
    assert history["before_the_first_action"] == [0.0] and manifest["hidden"] == [2]
    last = manifest["inputs"]["obs"][-1]
    assert last["name"] == "action 0 -2" and last["recorded"][1] == pytest.approx(2, abs=1e-3)

    policy, keeper = load(folder / "policy.py"), load(folder / "policy.py", "Controller")()
    frames = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    first = keeper(frames[0])
    assert np.array_equal(first, policy([*frames[0], *frames[0], *frames[0], 0, 0]))
    keeper.took([-1.5])  # a valve that did not follow
    second = keeper(frames[1])
    assert np.array_equal(second, policy([*frames[1], *frames[0], *frames[0], -1.5, 0]))
    third = keeper(frames[2])
    whole = [*frames[2], *frames[1], *frames[0], *second, -1.5]
    assert np.array_equal(third, policy(whole))
    keeper.start()
    assert np.array_equal(keeper(frames[0]), first)
    # In the plant's units it is what the agent does in its own.
    saved = reverie.load(finished)
    unit = torch.tensor([*whole[:6], *(float(each) / 2 for each in whole[6:])])
    action = saved.policy(unit.expand(2, 1, -1).float())[1, 0]
    assert third == pytest.approx(2 * action.numpy(), abs=1e-5)
    named = dict(zip(saved.spec.obs_labels, map(float, whole), strict=True))
    assert saved.policy(named, seed=1)["action 0"] == pytest.approx(float(third[0]), abs=1e-5)
    for wrong in (frames[0][:1], whole):
        with pytest.raises(ValueError, match="2 numbers are seen now"):
            keeper(wrong)
    with pytest.raises(ValueError, match="8 numbers"):
        policy(frames[0])


@pytest.mark.skipif(c_files.find_compiler() is None, reason="no C compiler")
def test_the_c_file_keeps_it_and_tests_that(finished):
    folder, measured = exported(finished, "c")
    assert measured.difference is not None and measured.difference < 1e-5
    header, test = ((folder / name).read_text() for name in ("policy.h", "policy_test.c"))
    assert (
        "void policy_next(policy_history *history" in header and "#define POLICY_SEEN 2" in header
    )
    assert "newest first: the last 3 observations of" in header and "obs[7]: action 0 -2" in header
    assert "policy_next(&history, frames[n], action)" in test
    # A keeper that forgets fails its own test.
    source = (folder / "policy.c").read_text()
    assert "history->obs[i - POLICY_SEEN];" in source
    (folder / "policy.c").write_text(source.replace("history->obs[i - POLICY_SEEN];", "0.0f;"))
    with pytest.raises(Mistake, match="ended with 1"):
        c_files.run_test(c_files.find_compiler(), folder, 3)


def test_a_model_of_histories_is_not_exported(tmp_path):
    model = build_option(
        "world_model", "ensemble", changes={}, spec=make().data.spec, seeds=1, seed=0
    )
    with pytest.raises(Mistake, match=r"predicts histories .* choose what=policy"):
        require_ensemble(model, tmp_path)


def test_check_tells_what_was_made_and_what_could_be(capsys, tmp_path):
    typed = ["dataset=builtin/pendulum-mixed", "dataset.hide=2", "dataset.history={obs: 3}"]
    assert checker.check(typed) == 0
    printed = capsys.readouterr().out
    assert (
        "without 1 column, as histories of 3 observations and 2 actions: 24,000 rows, "
        "observations of size 8, actions of size 1"
    ) in printed.replace("\n", " ")
    rows = reverie.datasets.load("builtin/pendulum-mixed", episodes=6, history=2).transitions
    np.savez(
        tmp_path / "log.npz",
        observations=rows.obs.numpy(),
        actions=rows.action.numpy(),
        rewards=rows.reward.numpy(),
        terminals=rows.terminated.numpy(),
        timeouts=np.arange(1200) % 200 == 199,
    )
    log = ["dataset=file", f"dataset.path={tmp_path / 'log.npz'}"]
    checker.check([*log, "dataset.action_low=-1", "dataset.action_high=1"])
    found = " ".join(capsys.readouterr().out.split())
    assert "columns 3..5 copy columns 0..2, column 6 copies action 0 of the row before" in found
    assert "set dataset.copies=auto" in found


def test_exact_dynamics_need_what_is_hidden():
    with pytest.raises(Mistake, match=r"^obs_slice=None, obs_keys=None and dataset\.hide=\[2\]"):
        reverie.make("algorithm=mopo", *SMALL, "world_model=true_dynamics")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["dataset.history=0"], "dataset.history=0 must be a whole number, at least 1"),
        (["dataset.history=300"], "dataset.history={obs: 300, actions: 299} reaches further back"),
        (["dataset.history={obs: 2, action: 1}"], "dataset.history={'obs': 2, 'action': 1} must"),
        (["dataset.chunks=2"], "dataset.chunks=2 and histories do not go together"),
        (["dataset.storage=memmap"], "dataset.hide=[2] makes new rows of all"),
        (["dataset.hide=[5]"], "pendulum-mixed has no observation '5', which dataset.hide names"),
        (["dataset.copies=always"], "dataset.copies=always must be auto or null"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_fitted(changes, message):
    with pytest.raises(Mistake) as caught:
        make(*changes)
    assert str(caught.value).startswith(message)


def test_a_collection_is_of_whole_single_observations():
    for name, value in (("history", 3), ("hide", [0]), ("copies", "auto")):
        config = compose_command("collect", env_id="Pendulum-v1", dataset={name: value})
        with pytest.raises(Mistake, match=rf"^dataset\.{name}=.* must be null"):
            require_sense(OmegaConf.to_container(config, resolve=True))


def test_a_run_is_not_continued_from_one_that_saw_something_else(finished):
    # Three observations and two actions are as wide as four observations and none.
    for lengths, now in (("{obs: 4, actions: 0}", 4), ("2", 2)):
        told = rf"stacked_obs 3, the dataset of this run has {now}; set dataset\.history as it was"
        with pytest.raises(Mistake, match=told):
            make(f"init={finished}", f"dataset.history={lengths}").train()
