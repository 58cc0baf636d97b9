"""Collections: what the datasets hold, that a killed one ends the same, and how mistakes end."""

import json
import os
import signal

import minari
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from reverie.datasets import minari_writer
from reverie.datasets.readers.minari import load
from reverie.datasets.readers.minari_files import root_set_to
from reverie.envs import snapshot
from reverie.envs.make import make_env, spec_of
from reverie.envs.specs import Reference
from reverie.mistake import Mistake
from reverie.training.collect import snapshots as collection
from reverie.training.collect.__main__ import collect
from reverie.training.collect.snapshots import Snapshot, collect_rows, medium_of
from reverie.training.files import load_tensors
from reverie.training.launch.mistakes import explain

TASK = "tests.training.pull:Pull-v0"
NAMESPACE = "reverie/tests-training-pull-pull-v0"
SMALL = (
    "steps=60",
    "rows=45",
    "dataset.steps=20",
    "batch_size=16",
    "agent.hidden=[16,16]",
    "agent.actor_learning_rate=1e-2",
    "agent.critic_learning_rate=1e-2",
    "evaluate.every=20",
    "evaluate.episodes=3",
    "score_episodes=5",
    "checkpoint_every=15",
    "log_every=10",
    "threads=1",
)
KINDS = ("random", "medium-replay", "medium", "expert")


@pytest.fixture
def arguments(tmp_path):
    """What is typed, with folders of the test's own."""

    def typed(*changes, name="a", env_id=TASK):
        places = (f"path={tmp_path / name / 'data'}", f"root={tmp_path / name / 'runs'}")
        return [f"env_id={env_id}", *SMALL, *places, *changes]

    return typed


@pytest.fixture
def run(arguments):
    """A collection in this process."""

    def work(*changes, **where):
        typed = arguments(*changes, **where)
        with initialize_config_dir(os.path.abspath("conf"), version_base="1.3"):
            config = compose("collect", overrides=typed)
        return collect(config, typed)

    return work


def read(root, kind):
    return load(
        name=None,
        id=f"{NAMESPACE}/{kind}-v0",
        path=str(root),
        download=False,
        env_id="recorded",
        env_kwargs={},
        physics="auto",
        obs_keys=None,
        reference="recorded",
        clip_actions=False,
    )


def contents(root):
    """Every file of the datasets except for HDF5's own time stamps, by its values."""
    return {kind: read(root, kind).fingerprint for kind in KINDS}


@pytest.mark.pictures
def test_the_datasets_are_graded_true_and_described(run, tmp_path, capsys):
    high = run()
    root = tmp_path / "a" / "data"
    assert not list(root.glob(".*"))
    data = {kind: read(root, kind) for kind in KINDS}
    scores = {}
    for kind, found in data.items():
        assert found.reference.high == high and found.reference.low < high
        rows = found.transitions
        # A step of the task itself leads to every next observation, those at ends included.
        force = 2 * rows.action[:, 0]
        torch.testing.assert_close(rows.next_obs[:, 0], 0.9 * rows.obs[:, 0] + 0.2 * force)
        torch.testing.assert_close(rows.reward, force / 2)
        assert torch.equal(rows.terminated, rows.next_obs[:, 0] < -0.6)
        assert not (rows.terminated & found.truncated).any()
        ends = found.episode_starts + found.episode_lengths - 1
        lengths = dict(zip(ends.tolist(), found.episode_lengths.tolist(), strict=True))
        limited = set(found.truncated[:-1].nonzero().flatten().tolist())
        if kind == "medium-replay":
            limited -= {19}  # where the random start was cut
        assert limited and all(lengths[row] == 8 for row in limited)
        assert found.spec.env_id == TASK and found.spec.max_episode_steps == 8
        scores[kind] = float(found.reference.normalise(found.returns.mean()))
    assert len(data["random"]) == len(data["expert"]) == 45
    assert data["random"].transitions.terminated.any()
    assert scores["random"] < scores["expert"]

    record = json.loads(next(root.rglob("medium-v0/data/metadata.json")).read_text())
    made = record["provenance"]
    assert made["settings"]["steps"] == 60 and made["versions"]["torch"] == torch.__version__
    policies = made["policies"]
    assert policies["random"]["score"] == 0 and policies["expert"]["score"] == pytest.approx(100)
    assert {policies[name]["update"] for name in ("medium", "expert")} <= {20, 40, 60}
    assert len(data["medium-replay"]) == 20 + policies["medium"]["rows"]
    with root_set_to(root):
        theirs = minari.load_dataset(f"{NAMESPACE}/expert-v0")
        assert minari.get_normalized_score(theirs, np.array([high])) == pytest.approx(1.0)
        assert theirs.recover_environment().spec.max_episode_steps == 8
        assert len(minari.list_local_datasets()) == 4

    # The same command again changes nothing, and brings back a dataset that is gone.
    before = contents(root)
    capsys.readouterr()
    run()
    printed = capsys.readouterr().out
    assert "is finished" in printed and "mean return" in printed and "…" not in printed
    with root_set_to(root):
        minari.delete_dataset(f"{NAMESPACE}/expert-v0")
    run()
    assert contents(root) == before
    assert (next((tmp_path / "a").rglob("curves.png"))).read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_a_killed_collection_ends_with_the_same_bits(run, arguments, command, tmp_path):
    run(name="whole")
    typed = arguments("log_every=1", name="killed")
    killed = command("-m", "training.collect", *typed, death=(35, signal.SIGKILL))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (saved,) = (tmp_path / "killed").rglob("checkpoint.pt")
    assert load_tensors(saved, "checkpoint")["update"] == 30
    assert not list((tmp_path / "killed" / "data").rglob("metadata.json"))
    run("log_every=1", name="killed")
    assert contents(tmp_path / "killed" / "data") == contents(tmp_path / "whole" / "data")


def test_a_collection_that_ended_before_its_summary_goes_on(run, arguments, tmp_path, monkeypatch):
    """The training has a summary of its own, and all the datasets are there."""
    root = tmp_path / "a" / "data"

    def end(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(collection, "plot", end)
        run()
    before = contents(root)
    (root / ".reverie-reverie-tests-training-pull-pull-v0-medium-v0").mkdir()  # of a killed process
    run()
    assert contents(root) == before and not list(root.glob(".*"))
    summary = json.loads(next((tmp_path / "a").rglob("summary.json")).read_text())
    assert set(summary["datasets"]) == set(KINDS) and list((tmp_path / "a").rglob("curves.png"))
    with monkeypatch.context() as patch:  # a finished one may lie on a disk that is only read

        def refuse(root):
            raise Mistake(f"datasets cannot be written to {root}")

        patch.setattr(minari_writer, "require_writable", refuse)
        run()
        with pytest.raises(Mistake, match="cannot be written"):
            run("overwrite=true")
    assert contents(root) == before


def test_a_relative_folder_is_below_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert minari_writer.root_of("data") == tmp_path / "data"


def test_other_choices_make_other_data(run, tmp_path):
    run(
        "random=untrained",
        "expert=last",
        "deterministic=true",
        "kinds=[random,expert]",
        "license=X-1",
    )
    root = tmp_path / "a" / "data"
    record = json.loads(next(root.rglob("expert-v0/data/metadata.json")).read_text())
    assert record["provenance"]["policies"]["expert"]["update"] == 60
    assert record["algorithm_name"] == "SAC" and record["license"] == "X-1"
    assert len(list(root.rglob("metadata.json"))) == 2
    expert, first = read(root, "expert"), read(root, "random")
    # The mean action is a function of the state, a sample is not.
    order = expert.transitions.obs[:, 0].argsort()
    steps = expert.transitions.action[order, 0].diff().abs()
    other = first.transitions.obs[:, 0].argsort()
    assert steps.median() < 0.2 * first.transitions.action[other, 0].diff().abs().median()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env_id": "Hoper-v5"}, "did you mean Hopper-v5"),
        ({"env_id": "CartPole-v1"}, "only continuous actions"),
        (["dataset.env_id=Pendulum-v1"], "give env_id alone"),
        (["rows=0"], "rows=0 must be a whole number, at least 1"),
        (
            ["kinds=[expert,best]"],
            "must be a list, each entry random or medium-",
        ),
        (["medium=[0.6,0.4]"], "two entries, the lower one first"),
        (["medium=[0.4,0.4]"], "two shares"),
        (["expert=middle"], "must be best or last"),
        (["online.capacity=50"], "at least the 60 steps"),
        (["namespace=a b"], "is malformed"),
        (["seeds=2"], "a collection has one policy"),
    ],
)
def test_what_cannot_work_is_refused_before_it_costs_anything(run, tmp_path, changes, message):
    where = changes if isinstance(changes, dict) else {}
    typed = [] if isinstance(changes, dict) else changes
    with pytest.raises(Exception) as caught:
        run(*typed, **where)
    line = explain(caught.value)  # what the command prints
    assert line is not None and message in line
    assert not list((tmp_path / "a").rglob("metadata.json"))


def test_an_expert_no_better_than_chance_is_refused(run, monkeypatch):
    monkeypatch.setattr(collection, "measure_policy", lambda *_: {"return_mean": 1.0})
    with pytest.raises(ValueError, match="no more than the 1 of random actions; raise steps"):
        run("steps=1", "evaluate.every=1")


def test_folders_and_datasets_of_others_are_left_alone(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Mistake, match="give another folder with path="):
        run(f"path={tmp_path / 'file'}")
    run("kinds=[random]")
    root = tmp_path / "a" / "data"
    before = read(root, "random").fingerprint
    with pytest.raises(ValueError, match=r"random-v0 is in .* already, .* overwrite=true"):
        run("kinds=[random]", "seed=1", "run_dir=" + str(tmp_path / "other"))
    assert read(root, "random").fingerprint == before
    run("kinds=[random]", "seed=1", "run_dir=" + str(tmp_path / "other"), "overwrite=true")
    assert read(root, "random").fingerprint != before


def test_medium_is_the_earliest_within_its_range_or_else_the_nearest():
    reference = Reference(0.0, 200.0, "test")
    kept = [Snapshot(update, 0, score) for update, score in ((1, 20.0), (2, 90.0), (3, 70.0))]
    assert medium_of(kept, reference, (0.3, 0.5)) == (kept[1], True)
    assert medium_of(kept, reference, (0.2, 0.4)) == (kept[2], True)
    assert medium_of(kept, reference, (0.6, 0.7)) == (kept[1], False)


def test_the_replay_becomes_columns_in_order_and_units():
    from reverie.datasets.readers.builtin import load_random
    from reverie.datasets.replay import GrowingReplay

    start = load_random(
        name=None,
        env_id=TASK,
        env_kwargs={},
        max_episode_steps=None,
        steps=3,
        seed=0,
        reference=None,
    )
    replay = GrowingReplay(start.transitions, seeds=1, capacity=9)
    rows = start.transitions.map(lambda column: column[None, [2, 1, 0]])
    replay.add(rows, torch.tensor([[True, False, True]]))
    columns = collect_rows(start, replay, rows=1)
    assert columns["obs"][:, 0].tolist() == start.transitions.obs[[0, 1, 2, 2], 0].tolist()
    np.testing.assert_allclose(columns["action"][:3], 2 * start.transitions.action, rtol=1e-6)


@pytest.mark.parametrize(
    ("env_id", "faithful"),
    [
        (TASK, True),
        ("Pendulum-v1", True),
        ("Hopper-v5", True),
        ("tests.training.pull:Hidden-v0", False),
    ],
)
def test_a_state_that_cannot_be_kept_is_noticed(env_id, faithful):
    spec = spec_of(env_id, env_kwargs={}, physics="as-is")
    assert snapshot.is_faithful(lambda: make_env(spec)) is faithful
