"""A policy judged on a log that its run has not seen."""

import json

import pytest

import reverie
from reverie.mistake import Mistake
from reverie.training.launch.hyperparameters import compose_run
from reverie.training.launch.other_data import read_other
from tests.cli.conftest import SMALL
from tests.datasets.tables import log, write
from tests.training.ope.test_ope import ope, refused, trained


@pytest.fixture(scope="module")
def tank(tmp_path_factory):
    """A run on a log, and the log of another month."""
    folder = tmp_path_factory.mktemp("tank")
    path = write(log(), folder / "log.csv")
    later = write(
        log(seed=1).assign(episode=lambda frame: frame["episode"] + 9), folder / "later.csv"
    )
    return train(path, folder / "run"), later


def train(path, directory, *changes):
    settings = [each for each in SMALL if not each.startswith("dataset")]
    settings += ["dataset=table", f"dataset.path={path}", "agent.discount=0.9", "evaluate.every=0"]
    reverie.make(*settings, *changes).train(directory)
    return directory


def test_the_policy_of_a_run_is_judged_on_another_log(tank, capsys):
    run_dir, later = tank
    ope(run_dir)
    own = (run_dir / "off_policy_evaluation.json").read_bytes()
    ope(run_dir, f"dataset.path={later}")
    found = json.loads((run_dir / "off_policy_evaluation-later.json").read_text())
    assert (run_dir / "off_policy_evaluation.json").read_bytes() == own
    whole = reverie.datasets.load("table", path=str(later))
    assert found["dataset"]["name"] == "later"
    assert found["verdict"]["recorded"] != json.loads(own)["verdict"]["recorded"]
    assert (
        f"judged on later, {len(whole):,} rows, and not on the data of the run"
        in capsys.readouterr().out
    )


def test_actions_keep_the_box_in_which_the_policy_acts(tank, tmp_path):
    run_dir, _ = tank
    run = reverie.load(run_dir)
    narrow = log(seed=2)
    narrow["action [-]"] = narrow["action [-]"] * 0.5 + 0.25
    path = write(narrow, tmp_path / "narrow.csv")
    data = read_other(run, {"path": str(path)})
    assert (
        data.spec.action_low
        == run.spec.action_low
        != reverie.datasets.load("table", path=str(path)).spec.action_low
    )
    narrow.loc[5, "action [-]"] = 7.0
    write(narrow, path)
    said = refused(run_dir, f"dataset.path={path}")
    assert "outside" in said and "clip_actions" in said
    ope(run_dir, f"dataset.path={path}", "dataset.clip_actions=true")


def test_every_episode_of_the_other_log_counts(tank, tmp_path):
    run_dir, later = tank
    run = reverie.load(run_dir)
    run.config.dataset.subset.episodes = 1
    assert len(read_other(run, {"path": str(later)}).episode_lengths) == 4


def test_a_table_is_refused_where_the_run_knows_arrays(tank):
    """Its columns have no roles there; a dataset option, which training takes, helps nobody."""
    run_dir, later = tank
    run = reverie.load(run_dir)
    run.config.dataset = compose_run(["dataset=file"]).dataset
    with pytest.raises(Mistake, match=r"later\.csv is a table, and .* store the columns"):
        read_other(run, {"path": str(later)})


def test_a_log_of_other_columns_is_refused(tank, tmp_path):
    run_dir, _ = tank
    path = write(log().rename(columns={"level [cm]": "depth [cm]"}), tmp_path / "other.csv")
    assert "other: its obs_names are ('depth [cm]', 'setpoint [cm]'), and those of" in refused(
        run_dir, f"dataset.path={path}"
    )
    assert "does not exist; correct dataset.path" in refused(run_dir, "dataset.path=none.csv")


def test_a_dataset_without_such_a_setting_says_which_it_has(tmp_path):
    said = refused(trained(tmp_path, "evaluate.every=0"), "dataset.path=later.csv")
    assert "has no path; its settings are" in said


def test_a_name_that_is_given_is_taken_and_no_class_is(tank):
    run_dir, later = tank
    run = reverie.load(run_dir)
    assert read_other(run, {"path": str(later), "name": "february"}).name == "february"
    assert "has no _target_" in refused(run_dir, "+dataset._target_=os.system")


def test_chunks_keep_the_box_of_one_step(tank, tmp_path):
    _, later = tank
    run = reverie.load(train(later, tmp_path / "run", "dataset.chunks=2"))
    assert run.spec.chunk == 2
    assert read_other(run, {"path": str(later)}).spec.action_low == run.spec.action_low
