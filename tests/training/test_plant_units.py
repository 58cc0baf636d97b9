"""A policy is asked by the names of its columns and answers in the plant's units."""

from dataclasses import replace

import numpy as np
import pandas
import polars
import pytest
import torch

import reverie
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.training.export.subject import choose_seed
from reverie.training.plant_units import decide

SPEC = Spec(
    env_id=None,
    obs_dim=2,
    action_dim=2,
    action_low=(0.0, -10.0),
    action_high=(1.0, 30.0),
    obs_names=("level [cm]", "speed"),
    action_names=("valve [-]", "heat [W]"),
)


def act(obs):
    """Seed 0 gives both observations, seed 1 their negatives."""
    signs = torch.tensor([1.0, -1.0])[:, None, None]
    return signs * obs


def ask(seed=0, spec=SPEC, **values):
    return decide(act, spec, values, seeds=2, seed=seed)


def test_numbers_by_name_give_numbers_in_plant_units():
    # Middle and half width of the boxes: 0.5 and 0.5, 10 and 20.
    assert ask(level=0.5, speed=0.25) == {"valve [-]": 0.75, "heat [W]": 15.0}
    assert ask(1, **{"speed": 0.25, "level [cm]": 0.5}) == {"valve [-]": 0.25, "heat [W]": 5.0}
    assert ask(level=5, speed=-5) == {"valve [-]": 1.0, "heat [W]": -10.0}  # inside its box


def test_rows_of_a_log_are_asked_as_they_are():
    log = pandas.DataFrame({"time": ["a", "b"], "level [cm]": [0.0, 1.0], "speed": [0.5, np.nan]})
    found = decide(act, SPEC, dict(log), seeds=2, seed=0)
    assert found["valve [-]"].tolist() == [0.5, 1.0]
    # What a broken sensor says does not look like a decision.
    assert found["heat [W]"][0] == 20.0 and np.isnan(found["heat [W]"][1])
    held = ask(level=np.array([0.0, 1.0]), speed=0.5)  # a number holds for all rows
    assert held["heat [W]"].tolist() == [20.0, 20.0]


def test_unnamed_columns_have_numbers():
    unnamed = replace(SPEC, obs_names=(), action_names=())
    found = ask(spec=unnamed, **{"obs 0": 0.5, "obs 1": 0.0})
    assert found == {"action 0": 0.75, "action 1": 10.0}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"level": 1.0}, r"the policy sees level \[cm\], speed, and speed is not among level;"),
        ({}, "level .cm. is not among nothing"),
        ({"level": "high", "speed": 1.0}, r"level \[cm\] is 'high'; give a number"),
        ({"level": [[1.0]], "speed": 1.0}, r"has the shape \(1, 1\)"),
        ({"level": [1.0, 2.0], "speed": [1.0]}, r"lengths, level \[cm\] 2, speed 1"),
        ({"seed": 2, "level": 1.0, "speed": 1.0}, "seeds 0 to 1"),
    ],
)
def test_what_cannot_be_asked_is_named(values, message):
    with pytest.raises(Mistake, match=message):
        ask(**values)


def test_a_name_that_two_units_share_is_given_whole():
    two = replace(SPEC, obs_names=("level [cm]", "level [%]"))
    with pytest.raises(Mistake, match=r"level could be level \[cm\] or level \[%\]"):
        ask(spec=two, level=1.0)
    assert ask(spec=two, **{"level [cm]": 0.5, "level [%]": 0.0})["valve [-]"] == 0.75


def test_a_run_and_what_is_read_of_it_answer_alike(tmp_path):
    random = np.random.default_rng(0)
    log = pandas.DataFrame(
        {
            "level [cm]": random.normal(size=200),
            "valve [%]": random.uniform(0, 100, 200),
            "reward": random.normal(size=200),
            "episode": np.repeat(range(10), 20),
        }
    )
    data = reverie.datasets.load(log, columns={"actions": "valve"}, action_low=0, action_high=100)
    run = reverie.make(
        "algorithm=td3_bc",
        dataset=data,
        agent={"hidden": [16]},
        seeds=2,
        updates=30,
        evaluate={"every": 0},
        verdict={"starts": 4, "fqe": {"updates": 30, "share": 1.0, "hidden": [16]}},
        threads=1,
    )
    summary = run.train(tmp_path / "run").summary
    saved = reverie.load(tmp_path / "run")
    values = [run.policy({"level": 0.3}, seed=seed) for seed in (0, 1)]
    assert values[0] != values[1]
    assert [saved.policy({"level": 0.3}, seed=seed) for seed in (0, 1)] == values
    # As an export does, it takes the better seed where none is given.
    best, _ = choose_seed(2, None, summary)
    assert saved.policy({"level": 0.3}) == values[best]
    raw = run.policy(torch.full((2, 1, 1), 0.3))[:, 0, 0]
    assert [each["valve [%]"] for each in values] == pytest.approx((50 + 50 * raw).tolist())
    # Frames and their rows are read by name, and NumPy's usual type of numbers is no mistake.
    named = saved.policy(dict(log))["valve [%]"]
    for frame in (log, polars.from_pandas(log)):
        assert np.array_equal(saved.policy(frame)["valve [%]"], named)
    assert run.policy(log.iloc[0], seed=best)["valve [%]"] == pytest.approx(named[0])
    for each in (run, saved):
        twice = torch.full((2, 1, 1), 0.3, dtype=torch.float64)
        assert torch.equal(each.policy(twice)[:, 0, 0], raw)
        assert torch.equal(each.policy(twice.numpy())[:, 0, 0], raw)
        for wrong, told in (
            (torch.zeros(2, 1, 3), r"found \[2, 1, 3\]; give level"),
            (np.zeros((4, 1)), r"found \[4, 1\]; the same rows for all are torch\.as_tensor\(obs"),
            (np.zeros((1, 4, 1)), r"found \[1, 4, 1\]; the same rows for all are"),
            (["high"], r"of numbers, found \['high'\]"),
        ):
            with pytest.raises(Mistake, match=rf"takes observations \[2, rows, 1\].* {told}"):
                each.policy(wrong)
