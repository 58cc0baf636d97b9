"""The Python door: what is typed behind train.py, as values."""

from functools import partial

import pytest
import torch

import reverie
from reverie.agents.sac import SAC
from reverie.agents.td3_bc import TD3BC
from reverie.datasets.options import load
from reverie.mistake import Mistake
from reverie.training.launch.make import build, compose_run, make, nearest_option
from reverie.training.run import Run

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
    run = make("algorithm=iql", dataset="builtin/pendulum-mixed", run_dir="a b", **SMALL)
    assert isinstance(run, Run) and run.updates == 6 and run.settings["run_dir"] == "a b"
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
