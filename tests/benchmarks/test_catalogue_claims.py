"""The dozen chaotic systems, and what is said of models that went on in them."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from reverie.benchmarks.claims.second_ring import catalogue, chaos
from reverie.benchmarks.claims.second_ring.systems import SYSTEMS


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_starts_on_its_attractor(name):
    """Where the table says: the orbit keeps to one region, turning about once a period."""
    system = replace(SYSTEMS[name].system, settle=0, substeps=4)
    path, actions = chaos.paths(system, 2, 300, seed=0)
    assert path.shape == (2, 301, 3) and not actions.any()
    start, middle, std = np.array(system.start), path.mean((0, 1)), path.std((0, 1))
    assert np.abs((start - middle) / std).max() < 6 and std.min() > 1e-2
    # In ten periods some coordinate crosses its middle about twenty times.
    turns = [(np.diff(np.sign(path[0] - middle), axis=0)[:, i] != 0).sum() for i in range(3)]
    assert max(turns) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_exponents_are_those_of_the_systems(name):
    entry = SYSTEMS[name]
    assert chaos.lyapunov_exponent(entry.system) == pytest.approx(entry.exponent, rel=0.1)


def test_what_was_measured_is_not_measured_again(tmp_path):
    calls = []

    def job():
        calls.append(1)
        return {"D_H": [0.5, 0.25]}

    path = tmp_path / "some" / "Lorenz-forced.json"
    assert catalogue._once(path, job) == catalogue._once(path, job) == {"D_H": [0.5, 0.25]}
    assert len(calls) == 1


def made_up(wins):
    """Runs in which the first of every pair wins so many times."""
    runs = {}
    for place, name in enumerate(SYSTEMS):
        plain = {"valid": [1.0, 2.0], "D_stsp": [3.0, 5.0], "D_H": [0.1, 0.2], "seconds": 2.0}
        better = plain | {"valid": [2.0, 3.0], "D_stsp": [1.0, 1.0]}
        firsts = {one for one, *_ in catalogue.PAIRS}
        runs[name] = {
            arm: better if arm in firsts and place < wins else plain for arm in catalogue.MODELS
        }
        runs[name]["truth"] = {"D_stsp": [0.1], "D_H": [0.01]}
    return runs


@pytest.mark.parametrize(("wins", "holds"), [(12, True), (10, True), (9, None), (2, False)])
def test_a_claim_needs_ten_of_twelve(wins, holds):
    claims = catalogue._claims(made_up(wins), quick=False)
    assert [claim.holds for claim in claims[:3]] == [holds] * 3
    assert f"on {wins} of 12" in claims[0].measured
    runs = made_up(wins)
    assert all(claim.holds is None for claim in catalogue._claims(runs, quick=True))
    del runs["Chen"]
    assert all(claim.holds is None for claim in catalogue._claims(runs, quick=False))


def test_tables_and_picture_hold_every_model_and_system():
    runs = made_up(12)
    details = catalogue._details(runs, quick=False)
    valid, divergence, *_ = details["tables"]
    assert [row[0] for row in valid["rows"]] == [*SYSTEMS, "median"]
    assert divergence["header"][-1] == "truth" and divergence["rows"][0][-1] == "0.1"
    assert details["systems"]["Chen"]["forced"]["valid"].mean == 2.5
    FigureCanvasAgg(catalogue._draw(runs)).draw()
