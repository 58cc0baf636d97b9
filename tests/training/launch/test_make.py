"""The Python door: what is typed behind train.py, as values."""

import io
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import reverie
from reverie.agents.base import Agent
from reverie.agents.sac import SAC
from reverie.agents.td3_bc import TD3BC
from reverie.datasets.options import load
from reverie.mistake import Mistake
from reverie.training.launch.make import _typed, build, compose_run, make, nearest_option
from reverie.training.run import Run
from tests.datasets.tables import log, write

SMALL = {"updates": 6, "log_every": 2, "batch_size": 8, "evaluate": {"every": 0}, "threads": 1}


class Weighted(TD3BC):
    def __init__(self, *, extra, **hyperparameters):
        super().__init__(**hyperparameters)
        self.extra = extra


@pytest.fixture(scope="module")
def data():
    return load("builtin/pendulum-mixed", episodes=6)


def test_values_mean_what_their_text_means():
    typed = compose_run(["algorithm=iql", "agent.hidden=[8,8]", "run_dir='a b'", "updates=7"])
    run = make("algorithm=iql", dataset="builtin/pendulum-mixed", name="a b", **SMALL)
    assert isinstance(run, Run) and run.updates == 6 and run.settings["name"] == "a b"
    assert run.settings["evaluate"]["every"] == 0 and typed.agent.hidden == [8, 8]
    assert run.settings["agent"]["expectile"] == typed.agent.expectile


def test_tuned_numbers_of_preset_and_dataset_are_applied():
    named = compose_run(["algorithm=mopo", "dataset=builtin/pendulum-mixed"])
    assert named.agent.hidden == [128, 128]


def test_a_dataset_that_is_there_is_trained_on(data, tmp_path):
    run = make("algorithm=td3_bc", dataset=data, **SMALL)
    assert run.data is data
    run.train(tmp_path)
    saved = reverie.load(tmp_path)
    assert saved.update == 6 and saved.spec == data.spec
    obs = data.transitions.obs[None, :4]
    assert torch.equal(saved.policy(obs), run.policy(obs))
    assert list(saved.series) and saved.summary["name"] == "td3_bc"
    with pytest.raises(Mistake, match="made in Python"):
        saved.load_dataset()


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ({"dataset": {"observations": np.zeros((5, 2))}}, r"reverie\.datasets\.load\(arrays\)"),
        ({"dataset": Path("log.npz")}, "a file is given as dataset=file dataset.path=log.npz"),
        ({"updates": "many"}, "updates=many must be a whole number"),
    ],
    ids=["arrays", "path", "updates"],
)
def test_what_is_no_setting_is_told_what_it_is(typed, told):
    with pytest.raises(Mistake, match=told):
        make("algorithm=td3_bc", **typed)


def test_the_line_about_the_budget_names_a_dataset_that_is_there(data):
    console = Console(file=io.StringIO(), width=200)
    make("algorithm=td3_bc", dataset=replace(data, name="my log"), console=console, **SMALL)
    told = console.file.getvalue()
    assert "tuned for the given dataset my log" in told and "dataset=file" not in told


def test_the_table_of_a_run_is_read_again_without_what_was_said_in_training(tmp_path, caplog):
    path = write(log(), tmp_path / "log.csv")
    caplog.set_level(logging.WARNING)
    make("algorithm=td3_bc", "dataset=table", f"dataset.path={path}", **SMALL).train(
        tmp_path / "run"
    )
    guesses = [record for record in caplog.records if "guessed" in record.getMessage()]
    assert len(guesses) == 5
    caplog.clear()
    saved = reverie.load(tmp_path / "run")
    assert len(saved.load_dataset()) == 236 and not caplog.records
    load("table", path=str(path))  # and only then
    assert len([record for record in caplog.records if "guessed" in record.getMessage()]) == 5


def test_a_preset_that_learns_from_the_best_episodes_takes_them_of_a_dataset_that_is_there(data):
    run = make("algorithm=bc_best", dataset=data, **SMALL)
    assert torch.equal(run.data.returns, data.returns.max()[None])
    assert run.mixture["real"].capacity == len(run.data) == len(data) / 6
    named = make("algorithm=bc_best", dataset={"episodes": 6}, **SMALL)
    assert named.data.fingerprint == run.data.fingerprint


@pytest.mark.parametrize("algorithm", ["rebrac", "td3_awr", "awac", "rvs", "cal_ql"])
def test_presets_that_ask_for_more_columns_train_and_are_read_again(data, tmp_path, algorithm):
    small = {**SMALL, "agent": {"hidden": [8]}}
    run = make(f"algorithm={algorithm}", dataset=data, probe_starts=8, seeds=2, **small)
    run.train(tmp_path)
    obs = data.transitions.obs[:8].unflatten(0, (2, 4))
    assert torch.equal(reverie.load(tmp_path).policy(obs), run.policy(obs))


@pytest.mark.slow
def test_rollouts_and_online_steps_join_rows_that_have_more_columns(data):
    rollouts = {"source": {"starts": 8, "every": 2, "horizon": 2}, "real_ratio": 0.5}
    model = {"world_model": {"hidden": [8], "weight_decay": [0.0, 0.0], "max_epochs": 1}}
    small = {**SMALL, "agent": {"hidden": [8]}}
    run = make("algorithm=mobrac", dataset=data, **{**small, **rollouts, **model})
    run.train()
    rows = run.mixture["synthetic"].sample(1, 16)
    assert rows.has_next_action.all() and rows.next_action.isfinite().all()
    run = make("algorithm=rebrac", "online=collect", "online.refit_every=0", dataset=data, **small)
    run.train()
    added = run.mixture["real"].added_rows()
    assert added.has_next_action.all()


def test_a_class_needs_no_yaml(data):
    run = make("algorithm=td3_bc", dataset=data, agent=partial(Weighted, extra=3), **SMALL)
    assert type(run.agent) is Weighted and run.agent.extra == 3
    run.train()
    alone = build(Weighted, extra=2, spec=data.spec, seeds=2, updates=10)
    assert alone.seeds == 2 and alone.extra == 2
    assert nearest_option("agent", Weighted) == "td3_bc" and nearest_option("agent", dict) is None


def test_numbers_come_from_the_yaml_and_yield_to_what_is_given(data):
    sac = build(SAC, spec=data.spec, seeds=1, updates=10, discount=0.5)
    assert sac.discount == 0.5
    with pytest.raises(ValueError, match="no option of conf/ builds"):
        build(dict)


def test_mistakes_are_those_of_the_command_line():
    with pytest.raises(ValueError, match="whole number"):
        make(dataset="builtin/pendulum-mixed", updates=0.5)
    with pytest.raises(Mistake, match=r"there is no setting 'updats'.*did you mean updates"):
        make(dataset="builtin/pendulum-mixed", updats=5)


@given(st.one_of(st.text(), st.floats(), st.lists(st.text(max_size=5), max_size=3)))
def test_a_value_is_typed_so_that_it_comes_back(value):
    texts = value if isinstance(value, list) else [value]
    if any(isinstance(text, str) and "${" in text for text in texts):
        with pytest.raises(Mistake, match="interpolation"):
            _typed(value)
        return
    back = OverridesParser.create().parse_override(f"key={_typed(value)}").value()
    assert back == value or (value != value and back != back), (value, back)


@pytest.mark.parametrize("text", ["123", "1e3", "null", "a\\b c", "it's", "\\", "ü", "a=b,c", ""])
def test_a_string_stays_a_string(text):
    assert make("algorithm=iql", name=text, **SMALL).settings["name"] == text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"run_dir": "x"}, "run_dir is for the command line.*run.train"),
        ({"overwrite": True}, "overwrite is for the command line"),
        ({"agent": 5}, "agent=5 is neither a name nor settings"),
        ({"agent": dict}, "is no agent; derive it"),
        ({"dataset": 5}, "dataset=5 is neither"),
        ({"dataset": pandas.DataFrame()}, r"a DataFrame is read by reverie\.datasets\.load"),
        ({"dataset": "file"}, "dataset.path has no value"),
        ({"filter": {"widht": 3}}, "there is no setting 'filter.widht'"),
    ],
)
def test_what_would_be_ignored_or_cannot_be_read_is_refused(given, message):
    with pytest.raises(Mistake, match=message):
        make(**given)


def test_settings_of_a_dataset_that_is_there_are_refused(data):
    for extra in ("dataset.env_id=Hopper-v5", "dataset=builtin/refrigerator"):
        with pytest.raises(Mistake, match="would be ignored beside a dataset that is there"):
            make(extra, dataset=data)
    with pytest.raises(Mistake, match="are two datasets"):
        make("dataset=builtin/refrigerator", dataset="builtin/pendulum-mixed")
    with pytest.raises(Mistake, match="is no override"):
        make(5)


def test_numbers_of_numpy_are_numbers():
    assert _typed(np.float64(0.5)) == "0.5" and _typed(np.int64(3)) == "3"
    assert _typed([np.float32(0.5)]) == "[0.5]" and _typed(np.arange(2)) == "[0,1]"


def test_settings_of_an_option_may_be_a_mapping():
    run = make("algorithm=iql", agent={"tau": 0.5}, dataset={"episodes": 4}, **SMALL)
    assert run.agent.tau == 0.5 and len(run.data.episode_starts) == 4


def test_numbers_of_a_partial_belong_to_the_run(data, tmp_path):
    given = {"dataset": data, **SMALL}
    make("algorithm=td3_bc", agent=partial(TD3BC, alpha=9.0), **given).train(tmp_path / "a")
    assert reverie.load(tmp_path / "a").agent.alpha == 9.0
    with pytest.raises(Mistake, match=r"agent.alpha=9.0, this one has agent.alpha=50.0"):
        make("algorithm=td3_bc", agent=partial(TD3BC, alpha=50.0), **given).train(tmp_path / "a")

    make("algorithm=td3_bc", agent=partial(Weighted, extra=1), **given).train(tmp_path / "b")
    with pytest.raises(Mistake, match=r"agent.extra=1, this one has agent.extra=2"):
        make("algorithm=td3_bc", agent=partial(Weighted, extra=2), **given).train(tmp_path / "b")
    with pytest.raises(Mistake, match=r"somebody's own.*Weighted"):
        reverie.load(tmp_path / "b")


class Still(Agent):
    """Knows no YAML, nor does any base of it."""

    def __init__(self, *, spec, seeds, updates, pull=1.0):
        super().__init__(spec=spec, seeds=seeds)
        self.pull, self.weight = pull, torch.nn.Parameter(torch.ones(seeds))

    def act(self, obs, deterministic=False):
        return obs[..., : self.spec.action_dim] * 0

    def update(self, batch):
        with torch.no_grad():
            self.weight -= 0.1 * self.pull
        return {"weight": self.weight.detach().clone()}


def test_an_agent_without_any_yaml_trains(data, tmp_path):
    run = make("algorithm=sac", dataset=data, agent=partial(Still, pull=0.5), **SMALL)
    assert run.train(tmp_path).series["weight"][1][0, -1] == pytest.approx(0.725)
    with pytest.raises(Mistake, match=r"agent.pull=2 would be ignored"):
        make("algorithm=sac", "+agent.pull=2", dataset=data, agent=Still, **SMALL)


def test_build_names_a_number_that_does_not_fit(data):
    with pytest.raises(Mistake, match="cannot be built: TD3BC has no setting foo"):
        build(TD3BC, spec=data.spec, seeds=1, updates=10, foo=1)
