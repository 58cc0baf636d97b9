"""The suite: built from seeds, resumed, checked bit by bit and across machines."""

import json

import h5py
import pytest
from omegaconf import OmegaConf

from reverie.benchmarks.suite import __main__ as suite
from reverie.benchmarks.suite import facts
from reverie.benchmarks.suite.tasks import DATASETS, KINDS, LICENCE, TASKS, dataset_id
from reverie.envs.specs import Reference
from reverie.mistake import Mistake
from reverie.training.collect.__main__ import require_sense
from reverie.training.launch.make import compose_command

TINY = {
    "steps": 40,
    "rows": 250,
    "batch_size": 16,
    "agent": {"hidden": [8, 8], "actor_learning_rate": 1e-2, "critic_learning_rate": 1e-2},
    "dataset": {"steps": 250},
    "evaluate": {"every": 20, "episodes": 1},
    "score_episodes": 2,
    "checkpoint_every": 20,
    "log_every": 20,
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A build of one task with next to no training."""
    folder = tmp_path_factory.mktemp("suite")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite, "run_all", lambda jobs: {key: job() for key, job in jobs.items()})
        manifest = suite.build(["two-tanks"], "small", folder, changes=TINY)
    return folder, manifest


@pytest.mark.slow
def test_what_is_built_is_minaris_and_tells_of_itself(built):
    folder, manifest = built
    entry = manifest["tasks"]["two-tanks"]
    assert entry["environment"] == "ReverieTwoTanks-v0" and entry["spec"]["time_limit"] == 200
    assert set(entry["datasets"]) == set(KINDS)
    for kind, own in entry["datasets"].items():
        metadata = json.loads(
            (folder / DATASETS / own["id"] / "data" / "metadata.json").read_text()
        )
        assert own["id"] == dataset_id("two-tanks", kind, "small")
        assert metadata["license"] == LICENCE and metadata["provenance"]["settings"]["seed"] == 0
        assert metadata["ref_max_score"] == entry["reference"]["high"]
        data = facts.load(folder, own["id"])
        assert data.fingerprint == own["fingerprint"] and len(data) == own["rows"]
    assert suite.read_manifest(folder)["tasks"] == manifest["tasks"]


def test_the_same_command_again_changes_nothing(built, monkeypatch):
    folder, manifest = built
    monkeypatch.setattr(suite, "run_all", lambda jobs: {key: job() for key, job in jobs.items()})
    again = suite.build(["two-tanks"], "small", folder, changes=TINY)
    assert again["tasks"] == manifest["tasks"]
    with pytest.raises(
        Mistake, match="holds the small suite of seed 0, asked for is the small one"
    ):
        suite.build(["two-tanks"], "small", folder, seed=1, changes=TINY)


def recorded_as(manifest, **changes):
    """The manifest as if it had been built elsewhere, with facts of a kind changed."""
    other = json.loads(json.dumps(manifest))
    for kind, own in other["tasks"]["two-tanks"]["datasets"].items():
        own["fingerprint"] = "other"
        own.update(changes.get(kind.replace("-", "_"), {}))
    return other


def words(found):
    return {id.split("/")[-1].removesuffix("-v0"): word for id, word, _ in found}


def test_a_build_is_compared_bit_by_bit_and_across_machines(built):
    folder, manifest = built
    assert set(words(suite.check(folder, manifest)).values()) == {"same"}
    assert set(words(suite.check(folder, {"tasks": {}})).values()) == {"new"}
    assert set(words(suite.check(folder, recorded_as(manifest))).values()) == {"alike"}
    entry = manifest["tasks"]["two-tanks"]
    gap = entry["reference"]["high"] - entry["reference"]["low"]
    mean = entry["datasets"]["expert"]["return_mean"]
    near, far = ({"return_mean": mean + share * gap} for share in (0.14, 0.16))
    assert words(suite.check(folder, recorded_as(manifest, expert=near)))["expert"] == "alike"
    found = suite.check(folder, recorded_as(manifest, expert=far))
    assert words(found) == dict.fromkeys(KINDS, "alike") | {"expert": "other"}
    assert (
        "16.0 points apart, allowed 15.0"
        in dict((id, t) for id, _, t in found)[dataset_id("two-tanks", "expert", "small")]
    )


def test_random_episodes_are_compared_column_by_column():
    reference = Reference(0.0, 100.0, "test")
    columns = {"names": ["x", "reward"], "mean": [1.0, 2.0], "std": [1.0, 1.0], "error": [0.1, 0.1]}
    mine = {
        "fingerprint": "a",
        "rows": 10,
        "return_mean": 1.0,
        "return_error": 0.5,
        "columns": columns,
    }
    other = {**mine, "fingerprint": "b"}
    assert facts.compare("random", mine, other, reference) == []
    shifted = {**other, "columns": {**columns, "mean": [1.9, 2.0]}}
    (told,) = facts.compare("random", mine, shifted, reference)
    assert told == "mean of x 1, recorded 1.9"
    (told,) = facts.compare("random", mine, {**other, "return_mean": 9.0}, reference)
    assert told.startswith("mean return 1, recorded 9: 8.0 points apart, allowed 4.2")
    assert facts.compare("random", mine, {**other, "rows": 9}, reference) == ["10 rows, recorded 9"]
    renamed = {**other, "columns": {**columns, "names": ["y", "reward"]}}
    assert "columns x, reward, recorded y, reward" in facts.compare(
        "random", mine, renamed, reference
    )
    assert facts.compare("random", mine, {**shifted, "fingerprint": "a"}, reference) == []


def test_damage_is_told(built, tmp_path):
    folder, manifest = built
    id = dataset_id("two-tanks", "medium", "small")
    path = folder / DATASETS / id / "data" / "main_data.hdf5"
    before = path.read_bytes()
    try:
        with h5py.File(path, "r+") as file:
            file["episode_0/rewards"][0] += 1.0
        found = words(suite.check(folder, manifest))
        assert found == dict.fromkeys(KINDS, "same") | {"medium": "damaged"}
        path.unlink()
        (told,) = [t for i, _, t in suite.check(folder, manifest) if i == id]
        assert "main_data.hdf5 cannot be read" in told
    finally:
        path.write_bytes(before)
    with pytest.raises(Mistake, match=r"suite.json does not exist; give the folder of a build"):
        suite.check(tmp_path, manifest)
    (tmp_path / "suite.json").write_text('{"tasks": {"two-tanks": {}}}')
    with pytest.raises(Mistake, match=r"suite.json is damaged"):
        suite.check(tmp_path, manifest)


def test_a_recorded_table_grows_and_says_what_is_missing(built, tmp_path):
    _, manifest = built
    status = suite.record("small", manifest, tmp_path)
    renamed = {**manifest, "tasks": {"pendulum": manifest["tasks"]["two-tanks"]}}
    assert suite.record("small", renamed, tmp_path) == status
    suite.record("full", renamed, tmp_path)
    found = json.loads((tmp_path / "suite.json").read_text())
    assert set(found["sizes"]["small"]["tasks"]) == {"pendulum", "two-tanks"}
    assert [len(each["rows"]) for each in found["tables"]] == [8, 4]
    (absent,) = [c["measured"] for c in found["claims"] if c["text"] == "small: tasks not built"]
    assert absent == "swing-up, hopper, halfcheetah, walker2d"
    assert suite.read_recorded("small", tmp_path / "suite.json")["tasks"]
    assert suite.read_recorded("small", tmp_path / "none.json") == {"tasks": {}}


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("size", ["small", "full"])
def test_every_task_can_be_collected(name, size, tmp_path):
    config = compose_command("collect", **TASKS[name].settings(name, size, tmp_path))
    settings = OmegaConf.to_container(config, resolve=True)
    require_sense(settings)
    assert settings["license"] == LICENCE and settings["path"] == str(tmp_path / DATASETS)
    assert settings["steps"] % settings["evaluate"]["every"] == 0


def test_the_command_refuses_to_record_another_seed(monkeypatch):
    monkeypatch.setattr("sys.argv", ["suite", "build", "--seed", "1", "--record"])
    with pytest.raises(Mistake, match="--seed 1 is not what is recorded"):
        suite.main()


def test_a_check_ends_with_1_where_something_is_wrong(built, monkeypatch, capsys):
    folder, manifest = built
    monkeypatch.setattr("sys.argv", ["suite", "check", str(folder)])
    for recorded, status in (
        (manifest, 0),
        (recorded_as(manifest, expert={"return_mean": 1e9}), 1),
    ):
        monkeypatch.setattr(suite, "read_recorded", lambda size, recorded=recorded: recorded)
        assert suite.main() == status
    assert "4 datasets, 1 damaged or unlike the recorded ones" in capsys.readouterr().out


@pytest.mark.parametrize("foreign", [{}, {"tasks": {}}, {"tasks": [1]}, {"name": "of another"}])
def test_a_file_of_somebody_else_is_not_called_damaged(tmp_path, foreign):
    (tmp_path / "suite.json").write_text(json.dumps(foreign))
    with pytest.raises(Mistake, match="tells of no datasets of a suite; give the folder of a bu"):
        suite.read_manifest(tmp_path)
