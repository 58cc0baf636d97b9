"""A longer run that goes on from a shorter one: to which bits, and what is refused."""

import hashlib
import json

import pytest
import torch
from rich.console import Console

from reverie.datasets.options import load
from reverie.mistake import Mistake
from reverie.training import checkpoint
from reverie.training.extension import Extension
from reverie.training.files import load_tensors, save_tensors
from reverie.training.initialisation import pinned
from reverie.training.loop import Periods
from reverie.training.mixing import mix
from reverie.training.run import Run
from reverie.training.run_directory import CONFIG, EXECUTION, METRICS, require_same
from reverie.training.stored import write_settings


class Killed(BaseException):
    """Ends a process where a test says so."""


@pytest.fixture(scope="module")
def data():
    return load("builtin/pendulum-mixed", episodes=6)


@pytest.fixture
def make_run(make_sac, data, tmp_path):
    """A run of some updates, which goes on from the one in `short` where it is asked to."""

    def make(updates, *, extends=None, annealed=False, settings=(), **changes):
        torch.manual_seed(3)
        agent = make_sac(
            data.spec, seeds=2, hidden=[16, 16], actor_cosine=annealed, updates=updates
        )
        agent.prepare(data)
        mixture, sources = mix(data, seeds=2, batch_size=8)
        known = {"name": "by hand", "updates": updates, **dict(settings)}
        if extends is not None:
            known["extend"] = str(extends)
            changes["extension"] = Extension(extends, updates)
        periods = Periods(log=2, evaluate=4, checkpoint=6)
        return Run(
            data,
            agent,
            mixture,
            sources,
            updates=updates,
            periods=periods,
            settings=known,
            **changes,
        )

    return make


def contents(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_it_ends_with_the_bits_of_a_run_of_that_length(make_run, tmp_path):
    whole = make_run(24)
    whole.train(tmp_path / "whole")
    short = tmp_path / "short"
    make_run(12).train(short)
    before = contents(short)

    def kill(update, episodes):
        if update == 20:
            raise Killed

    with pytest.raises(Killed):
        make_run(24, extends=short, on_evaluation=kill).train(tmp_path / "long")
    assert contents(short) == before
    (short / checkpoint.FILE).unlink()  # not needed any more
    long = make_run(24, extends=short)
    results = long.train(tmp_path / "long")
    assert same(whole.agent.state_dict(), long.agent.state_dict())
    assert (tmp_path / "long" / METRICS).read_text() == (tmp_path / "whole" / METRICS).read_text()
    assert results.summary["updates"] == 24


def test_it_goes_on_with_the_threads_and_the_compiler_of_the_shorter_run(make_run, tmp_path):
    short = tmp_path / "short"
    make_run(12).train(short)
    path = short / EXECUTION
    path.write_text(json.dumps({"threads": 1, "compiled": False}))
    make_run(14, extends=short, compiled=None).train(tmp_path / "long")
    assert json.loads((tmp_path / "long" / EXECUTION).read_text()) == {
        "threads": 1,
        "compiled": False,
    }


@pytest.mark.parametrize("annealed", [False, True])
def test_an_annealed_rate_that_rises_again_is_told(make_run, tmp_path, annealed):
    short = tmp_path / "short"
    make_run(12, annealed=annealed).train(short)
    console = Console(record=True, width=400)
    make_run(14, extends=short, annealed=annealed).train(tmp_path / "long", console)
    told = console.export_text()
    assert f"extending {short} to 14 updates" in told and "after update 12" in told
    assert ("rises again" in told) is annealed


def test_what_cannot_go_on_is_refused_and_leaves_nothing(make_run, tmp_path):
    short, long = tmp_path / "short", tmp_path / "long"
    with pytest.raises(Mistake, match=r"extend=\S+ holds no checkpoint\.pt; give the directory"):
        make_run(14, extends=short).train(long)
    make_run(12, settings={"agent": {"discount": 0.9}}).train(short)
    with pytest.raises(Mistake, match=r"agent\.discount=0\.9, this run has agent\.discount=0\.8; "):
        make_run(14, extends=short, settings={"agent": {"discount": 0.8}}).train(long)
    same_agent = {"settings": {"agent": {"discount": 0.9}}}
    with pytest.raises(Mistake, match=r"has done 12 updates, .* after 12; give more, .*updates=24"):
        make_run(12, extends=short, **same_agent).train(long)
    assert not long.exists()
    with pytest.raises(
        Mistake, match=r"holds a run with updates=12, .*with extend=\S+short it goes"
    ):
        make_run(14, **same_agent).train(short)
    with pytest.raises(Mistake, match="is the run directory itself"):
        Extension(short, 14).begin(short, make_run(14).agent, make_run(14).data, {})


def test_nothing_was_damaged_where_the_curves_go_on(make_run, tmp_path, caplog):
    short = tmp_path / "short"
    make_run(12).train(short)
    make_run(14, extends=short).train(tmp_path / "long")
    assert not caplog.records


def test_a_run_without_a_directory_goes_on_with_the_threads_of_the_shorter_one(
    make_run, tmp_path, monkeypatch
):
    short = tmp_path / "short"
    make_run(12).train(short)
    (short / EXECUTION).write_text(json.dumps({"threads": 1, "compiled": False}))
    monkeypatch.setattr("reverie.training.execution.repays", lambda updates: pytest.fail("asked"))
    console = Console(record=True, width=400)
    make_run(14, extends=short, compiled=None).train(console=console)
    assert "with 1 thread of" in console.export_text()


def test_what_settings_do_not_tell_is_refused_before_anything_is_copied(make_run, tmp_path):
    short, long = tmp_path / "short", tmp_path / "long"
    make_run(12).train(short)
    other = make_run(14, extends=short)
    other.data = load("builtin/pendulum-mixed", episodes=5)
    with pytest.raises(
        Mistake, match=r"extend=\S+short was learned from other rows .*init=\S+short"
    ):
        other.train(long)
    assert not long.exists()
    record = load_tensors(short / checkpoint.FILE, checkpoint.KIND)
    old = {**record, "log": {}}
    save_tensors(short / checkpoint.FILE, checkpoint.KIND, old)
    with pytest.raises(
        Mistake, match=r"short/checkpoint\.pt is damaged .*earlier version\); restore"
    ):
        make_run(14, extends=short).train(long)
    assert not long.exists()


def test_a_damaged_run_is_named_and_the_same_command_works_once_it_is_restored(make_run, tmp_path):
    short, long = tmp_path / "short", tmp_path / "long"
    make_run(12).train(short)
    record = load_tensors(short / checkpoint.FILE, checkpoint.KIND)
    for part in ("agent", "random"):
        save_tensors(short / checkpoint.FILE, checkpoint.KIND, {**record, part: {}})
        with pytest.raises(Mistake, match=r"short/checkpoint\.pt is damaged .* as extend=\.\.\."):
            make_run(14, extends=short).train(long)
        assert not (long / checkpoint.FILE).exists()
    save_tensors(short / checkpoint.FILE, checkpoint.KIND, record)
    assert make_run(14, extends=short).train(long).summary["updates"] == 14


def test_a_directory_inside_of_the_shorter_run_is_refused(make_run, tmp_path):
    short = tmp_path / "short"
    make_run(12).train(short)
    before = contents(short)
    with pytest.raises(Mistake, match="lies inside of extend="):
        make_run(14, extends=short).train(short / "long")
    assert contents(short) == before


def test_the_run_that_the_shorter_one_began_with_may_be_gone(tmp_path):
    short = tmp_path / "short"
    short.mkdir()
    (short / checkpoint.FILE).touch()
    known = {"init": str(tmp_path / "gone"), "init_sha256": "abc"}
    (short / CONFIG).write_text(write_settings(known))
    asked = {"init": known["init"], "init_sha256": None, "extend": str(short)}
    assert pinned(asked, tmp_path / "long")["init_sha256"] == "abc"
    assert pinned(asked, None)["init_sha256"] == "abc"
    with pytest.raises(Mistake, match="holds no checkpoint"):
        pinned({**asked, "extend": None}, tmp_path / "long")


def test_extend_is_only_advised_where_it_is_taken(tmp_path):
    run, advice = tmp_path / "run", "with extend="
    run.mkdir()

    def refused(place, **earlier):
        with pytest.raises(Mistake) as error:
            require_same(place, {"updates": 12, **earlier}, {"updates": 14, **earlier})
        return str(error.value)

    assert advice not in refused(run)  # no checkpoint
    (run / checkpoint.FILE).touch()
    assert f"{advice}{run} it" in refused(run)
    assert f"{advice}{run} it" in refused(run / checkpoint.FILE)
    assert advice not in refused(run, online={"_target_": "collect"})


def test_a_strangers_checkpoint_that_is_none_is_one_line(make_run, tmp_path):
    short = tmp_path / "short"
    make_run(12).train(short)
    path = short / checkpoint.FILE
    record = load_tensors(path, checkpoint.KIND)
    save_tensors(path, checkpoint.KIND, {**record, "update": "many"})
    with pytest.raises(Mistake, match=r"checkpoint\.pt is damaged \(it has no update of a run\)"):
        make_run(14, extends=short).train(tmp_path / "long")
