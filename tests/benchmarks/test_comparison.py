"""What benchmarks share that put presets beside each other."""

import pytest
from rich.console import Console

import reverie
from reverie.benchmarks.claims import comparison
from reverie.mistake import Unwritable


def record(*returns, alarms=(), stopped=None):
    """Of seeds whose last two evaluations lie 10 around these."""
    seconds = {"fitting": 40.0, "training": 90.0, "evaluation": 30.0}
    found = [[1e9, value - 10.0, value + 10.0] for value in returns]
    return {"returns": found, "alarms": list(alarms), "seconds": seconds, "stopped": stopped}


def test_divergence_is_a_result_and_a_full_disk_is_none(monkeypatch):
    run = reverie.make(
        "algorithm=td3_bc",
        "dataset=builtin/pendulum-mixed",
        "budget=laptop",
        updates=4,
        batch_size=16,
        agent={"hidden": [8]},
        console=Console(quiet=True),
    )
    next(run.agent.parameters()).data.fill_(float("nan"))
    found = comparison.train(run)
    assert "not finite" in found["stopped"] and found["returns"] == []

    def fill_up(**_):
        raise Unwritable("no room")

    monkeypatch.setattr(run, "train", fill_up)
    with pytest.raises(Unwritable):
        comparison.train(run)


def test_the_picture_has_a_point_for_every_method_that_came_to_its_end():
    own = {"bc": record(1.0, 2.0), "sac": record(stopped="no")}
    recorded = comparison.Recorded(mean=1.0, best=3.0)
    for tasks in (["x"], ["x", "y", "z"]):
        axes = comparison.plot(
            dict.fromkeys(tasks, own), dict.fromkeys(tasks, recorded), ("dull", ("bc",))
        ).axes
        assert [ax.get_title() for ax in axes] == tasks
        for ax in axes:
            assert [label.get_text() for label in ax.get_yticklabels()] == ["bc"]
            assert "dull" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_the_recorded_behaviour_has_its_place_in_the_table():
    records = {"bc": record(99.0, 101.0), "iql": record(200.0, 200.0)}
    found = comparison.Recorded(mean=150.0, best=250.0)
    shown = comparison.tabulate("x", records, found, notes=["on X"], behaviour_row="log")
    assert [row[0] for row in shown["rows"]] == ["iql", "log", "bc"]
    assert shown["rows"][1] == ["log", "150", "0", "-", "-"] and shown["caption"].endswith("; on X")
    # Where all episodes earned the same there is no scale.
    flat = comparison.tabulate("x", records, comparison.Recorded(mean=1.0, best=1.0))
    assert [row[2] for row in flat["rows"]] == ["-", "-"]


def test_the_digest_is_of_what_decides_the_numbers():
    def found(**settings):
        return comparison.digest(
            reverie.make(
                "algorithm=bc",
                "dataset=builtin/pendulum-mixed",
                "budget=laptop",
                console=Console(quiet=True),
                **settings,
            )
        )

    assert found(threads=1, compile=True) == found(threads=2, compile=False) != found(updates=3)
    run = reverie.make(
        "algorithm=bc", "dataset=builtin/pendulum-mixed", console=Console(quiet=True)
    )
    now = comparison.digest(run)
    run.settings = {key: value for key, value in run.settings.items() if key != "extend"}
    assert comparison.digest(run) == now  # as it was before there was such a setting
