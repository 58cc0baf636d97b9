"""Verdicts about single models and ensembles, and one arm of each kind end to end."""

from dataclasses import replace

import numpy as np
import pytest

from reverie.benchmarks.claims.experiment import History
from reverie.benchmarks.claims.judging import Estimate, estimate, judge_margin
from reverie.benchmarks.claims.lipschitz import __main__ as lipschitz
from reverie.benchmarks.claims.lipschitz import single_model
from reverie.benchmarks.claims.lipschitz.single_model import (
    ADVERSARIAL,
    ARMS,
    ENSEMBLE,
    SINGLE,
    SPECTRAL,
    TASKS,
)

MEASURED = ("return", "slope/local", "slope/relative", "gap/bellman", "gap/value", "gap/spread")


def around(mean, half_width):
    return Estimate(mean, half_width, [mean] * 4)


@pytest.mark.parametrize(
    ("gain", "half_width", "margin", "expected"),
    [
        (0.0, 5.0, 10.0, (True, "reaches it")),
        (30.0, 5.0, 10.0, (True, "reaches it")),
        (-20.0, 5.0, 10.0, (False, "falls short")),
        (0.0, 15.0, 10.0, (None, "undecided")),  # equal means, but the seeds do not tell
        (-12.0, 5.0, 10.0, (None, "undecided")),
        (100.0, 1.0, 0.0, (None, "the ensemble learnt nothing")),
    ],
)
def test_only_an_interval_on_one_side_of_the_margin_decides(gain, half_width, margin, expected):
    reached = judge_margin(around(gain, half_width), margin)
    assert (reached, lipschitz.say_reached(reached, margin)) == expected


def history(seconds, **values):
    # Four seeds close to each other, five evaluations.
    lanes = np.array([-0.01, 0.0, 0.0, 0.01]).reshape(-1, 1)
    series = {
        metric.replace("_", "/").replace(".", "_"): (np.arange(5), mean + lanes * np.ones(5))
        for metric, mean in values.items()
    }
    return History(series, None, seconds, evaluating=1.0, fitting=2.0)  # type: ignore[arg-type]


def arm(returns, slope, gap, spread, seconds, capped=0.0):
    return history(
        seconds,
        **{
            "return": returns,
            "slope_local": slope,
            "slope_relative": slope / 10,
            "gap_bellman": gap,
            "gap_value": gap / 2,
            "gap_spread": spread,
            "spectral.capped": capped,
        },
    )


def verdicts(runs, judged=True, learnt=90.0):
    task = replace(TASKS["online, hopper"], random_return=0.0, learnt=learnt)
    claims = lipschitz.task_claims("task", task, runs, judged)
    return {claim.text.removeprefix("task: "): claim.holds for claim in claims}


PAPER = {
    ENSEMBLE: arm(100.0, 1.0, 1.0, 0.5, 70.0),
    SINGLE: arm(50.0, 5.0, 5.0, 0.1, 10.0),
    SPECTRAL: arm(100.0, 1.0, 1.0, 0.1, 12.0, capped=0.5),
    ADVERSARIAL: arm(110.0, 1.0, 1.0, 0.1, 20.0),
}


def test_what_the_paper_says_holds_where_it_is_so():
    found = verdicts(PAPER)
    assert len(found) == 13 and set(found.values()) == {True}


def test_claims_fail_where_the_opposite_was_measured():
    found = verdicts(
        {
            ENSEMBLE: arm(100.0, 9.0, 9.0, 0.1, 10.0),
            SINGLE: arm(100.0, 5.0, 5.0, 0.5, 10.0),
            SPECTRAL: arm(50.0, 9.0, 9.0, 0.5, 12.0),
            ADVERSARIAL: arm(50.0, 9.0, 9.0, 0.5, 12.0),
        },
        learnt=110.0,
    )
    assert set(found.values()) == {False}


def test_a_quick_run_judges_compute_alone():
    found = verdicts(PAPER, judged=False)
    judged = {text for text, holds in found.items() if holds is not None}
    assert judged == {"the regularised single models take less compute than the ensemble"}


def test_learning_is_fit_and_training_without_evaluations():
    assert PAPER[ENSEMBLE].learning == 70.0 - 1.0 + 2.0
    assert estimate(PAPER[ENSEMBLE].last("return")).mean == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("name", "chosen"), [("offline, pendulum", SPECTRAL), ("online, pendulum", ENSEMBLE)]
)
def test_arms_run_and_measure_all_that_is_judged(name, chosen, tmp_path, monkeypatch):
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path))
    task = TASKS[name]
    task = replace(
        task,
        changes={"episodes": 6} if task.online is None else {**task.changes, "steps": 100},
        model={**task.model, "hidden": [8, 8], "max_epochs": 1},
        network={**task.network, "hidden": [8, 8]},
        budget=replace(
            task.budget, updates=20, batch=16, starts=20, every=10, evaluate=10, seeds=2, episodes=1
        ),
        online=task.online and {**task.online, "every": 5, "refit_every": 10},
    )
    found = single_model.run(name, task, chosen, single_model.load(task))
    assert all(np.isfinite(found.series[metric][1]).all() for metric in MEASURED)
    assert found.fitting > 0 and 0 < found.evaluating < found.seconds
    assert set(lipschitz.COLOURS) == set(ARMS)
