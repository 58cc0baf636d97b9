"""A run as an object: made by hand, killed, resumed, finished."""

import hashlib
import json

import numpy as np
import pytest
import torch

from reverie.datasets.options import load
from reverie.mistake import Mistake
from reverie.training import checkpoint
from reverie.training.files import load_tensors, save_tensors
from reverie.training.launch.restore import load_run
from reverie.training.loop import Periods
from reverie.training.mixing import mix
from reverie.training.results.summary import read_summary
from reverie.training.run import Run
from reverie.training.run_directory import CONFIG, METRICS


class Killed(BaseException):
    """Ends a process where a test says so."""


@pytest.fixture(scope="module")
def data():
    return load("builtin/pendulum-mixed", episodes=6)


@pytest.fixture
def make_run(data, make_sac):
    def make(**changes):
        torch.manual_seed(3)
        agent = make_sac(data.spec, seeds=2)
        mixture, sources = mix(data, seeds=2, batch_size=8)
        hyperparameters = {"updates": 12, "periods": Periods(log=2, evaluate=4, checkpoint=6)}
        hyperparameters["settings"] = {"name": "by hand", "seeds": 2}
        return Run(data, agent, mixture, sources, **(hyperparameters | changes))

    return make


class Mean:
    """A probe that draws random numbers, which must not reach the training."""

    def __init__(self, agent):
        self.agent = agent

    def measure(self, episodes):
        return {"drawn": torch.rand(self.agent.seeds)}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_without_a_directory_returns_what_it_measured_and_trains_once(make_run):
    run, seen = make_run(), []
    run.on_evaluation = lambda update, episodes: seen.append(update)
    results = run.train()
    assert seen == [4, 8, 12]
    updates, losses = results.series["critic_loss"]
    assert updates.tolist() == [2, 4, 6, 8, 10, 12] and losses.shape == (2, 6)
    assert results.summary["updates"] == 12 and results.summary["seconds"]["training"] > 0
    assert run.policy(torch.zeros(2, 5, 3)).shape == (2, 5, 1)
    with pytest.raises(RuntimeError, match="make a new one"):
        run.train()


def test_what_happens_between_making_and_training_changes_nothing(make_run):
    first, second = make_run(), make_run()
    torch.rand(7)  # both were made before either is trained
    results = [run.train() for run in (first, second)]
    assert same(first.agent.state_dict(), second.agent.state_dict())
    assert np.array_equal(*(found.series["critic_loss"][1] for found in results))


def test_probes_change_nothing_but_the_log(make_run):
    plain, probed = make_run(), make_run()
    probed.probes = [Mean(probed.agent)]
    plain.train()
    assert probed.train().series["drawn"][1].shape == (2, 3)
    assert same(plain.agent.state_dict(), probed.agent.state_dict())


def test_a_killed_run_ends_with_the_same_bits_and_a_finished_one_is_read(make_run, tmp_path):
    whole = make_run()
    whole.train(tmp_path / "whole")

    def kill(update, episodes):
        if update == 8:
            raise Killed

    with pytest.raises(Killed):
        make_run(on_evaluation=kill).train(tmp_path / "killed")
    resumed = make_run()
    resumed.train(tmp_path / "killed")
    assert same(whole.agent.state_dict(), resumed.agent.state_dict())
    texts = [(tmp_path / name / METRICS).read_text() for name in ("whole", "killed")]
    assert texts[0] == texts[1]

    finished = make_run()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "whole").iterdir()}
    results = finished.train(tmp_path / "whole")
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "whole").iterdir()}
    assert before == after and results.summary["updates"] == 12
    assert same(whole.agent.state_dict(), finished.agent.state_dict())


def test_damage_to_a_finished_run_is_mended_or_told(make_run, tmp_path, caplog):
    make_run().train(tmp_path)
    metrics = tmp_path / METRICS
    whole = metrics.read_bytes()
    digest = read_summary(tmp_path / "summary.json")["metrics_sha256"]
    assert digest == hashlib.sha256(whole).hexdigest()
    metrics.write_bytes(whole.replace(b"critic_loss,1", b"critic_loss,9"))
    make_run().train(tmp_path)
    assert metrics.read_bytes() == whole and f"{metrics} was damaged" in caplog.text
    summary = tmp_path / "summary.json"
    told = summary.read_text()
    number = json.loads(told)["seconds"]["training"]
    summary.write_text(told.replace(repr(number), repr(number + 1)))
    with pytest.raises(Mistake, match=r"summary\.json is damaged \(its values are not those"):
        make_run().train(tmp_path)
    summary.write_text(told)
    saved = tmp_path / checkpoint.FILE
    saved.write_bytes(saved.read_bytes().replace(b"critic", b"critik", 1))
    with pytest.raises(Mistake, match=r"checkpoint\.pt cannot be read.*overwrite=true, or give"):
        make_run().train(tmp_path)


def test_a_log_that_has_grown_since_is_told_as_such(make_run, tmp_path):
    make_run().train(tmp_path)
    (tmp_path / "summary.json").unlink()
    grown = make_run()
    grown.data = load("builtin/pendulum-mixed", episodes=12)
    with pytest.raises(Mistake, match=r"other rows than the dataset has now .*: restore the data"):
        grown.train(tmp_path)


def test_a_run_that_diverged_keeps_the_checkpoint_of_before_and_is_not_read(make_run, tmp_path):
    run = make_run()

    def diverge(update, episodes):
        if update == 8:
            next(run.agent.parameters()).data[0] = torch.nan
            run.agent.update = lambda batch: {}

    run.on_evaluation = diverge
    with pytest.raises(
        Mistake, match=r"checkpoint.pt holds weights .*diverged; lower the learning"
    ):
        run.train(tmp_path)
    record = load_tensors(tmp_path / checkpoint.FILE, checkpoint.KIND)
    assert record["update"] == 6
    next(iter(record["agent"].values())).fill_(torch.inf)
    save_tensors(tmp_path / checkpoint.FILE, checkpoint.KIND, record)
    again = make_run()
    for read in (
        lambda: again.train(tmp_path),
        lambda: checkpoint.load_agent(tmp_path / checkpoint.FILE, again.agent, again.device),
    ):
        with pytest.raises(Mistake, match="not finite"):
            read()


@pytest.mark.parametrize(
    "forge",
    [
        lambda record: record.pop("streams"),
        lambda record: record.update(update="12"),
        lambda record: record["random"].update(cpu=torch.zeros(0)),
        lambda record: record["log"].update(scores=3),
        lambda record: record["seconds"].update(evaluation={}),
        lambda record: record["agent"].popitem(),
        lambda record: record["agent"].update(more=torch.zeros(1)),
    ],
)
def test_a_checkpoint_that_somebody_else_has_written_is_damaged(make_run, tmp_path, forge):
    run = make_run()

    def die(update, episodes):
        raise Killed

    run.on_evaluation = die
    with pytest.raises(Killed):
        run.train(tmp_path)
    saved = tmp_path / checkpoint.FILE
    make_run(periods=Periods(log=2, evaluate=0, checkpoint=3)).train(tmp_path / "other")
    record = load_tensors(tmp_path / "other" / checkpoint.FILE, checkpoint.KIND)
    forge(record)
    save_tensors(saved, checkpoint.KIND, record)  # whole to the last bit
    with pytest.raises(Mistake, match=r"checkpoint\.pt is damaged"):
        make_run().train(tmp_path)


def test_a_finished_run_that_kept_no_checkpoint_is_read(make_run, tmp_path):
    periods = Periods(log=2, evaluate=4, checkpoint=0)
    make_run(periods=periods).train(tmp_path)
    assert make_run(periods=periods).train(tmp_path).summary["updates"] == 12


def test_a_trained_run_does_not_train_again_elsewhere(make_run, tmp_path):
    def kill(update, episodes):
        raise Killed

    run = make_run()
    run.train(tmp_path / "first")
    with pytest.raises(RuntimeError, match="make a new one"):
        run.train(tmp_path / "second")
    killed = make_run(on_evaluation=kill)  # before its first checkpoint
    for message in (Killed, RuntimeError):
        with pytest.raises(message):
            killed.train(tmp_path / "third")


def test_a_directory_of_another_run_is_refused(make_run, tmp_path):
    make_run().train(tmp_path)
    with pytest.raises(ValueError, match="seeds=2, this one has seeds=3"):
        make_run(settings={"name": "by hand", "seeds": 3}).train(tmp_path)


def test_an_untrained_agent_is_evaluated_where_that_is_asked_for(make_run):
    seen = []
    run = make_run(evaluate_first=True, on_evaluation=lambda update, episodes: seen.append(update))
    run.train()
    assert seen == [0, 4, 8, 12]


def test_batches_hold_what_was_asked_for_of_each_stream(data):
    class Source:
        stream, capacity = "synthetic", 10

    mixture, sources = mix(data, seeds=2, batch_size=8, real_rows=3, source=Source())
    assert mixture.rows == {"real": 3, "synthetic": 5} and list(sources) == ["synthetic"]
    assert mix(data, seeds=2, batch_size=8)[0].rows == {"real": 8}


def test_seconds_are_those_of_the_given_clock(make_run):
    ticks = iter(range(1000))
    run = make_run(clock=lambda: float(next(ticks)))
    run.train()
    # A block takes two ticks, its beginning and its end: three evaluations, three saves.
    assert run.seconds["evaluation"] == 3.0


def test_a_run_made_by_hand_is_compared_by_what_it_is(make_run, tmp_path):
    make_run(settings={}).train(tmp_path)
    with pytest.raises(Mistake, match="updates=12, this one has updates=20"):
        make_run(settings={}, updates=20).train(tmp_path)
    with pytest.raises(Mistake, match="put together by hand"):
        load_run(tmp_path)


def test_a_run_that_is_there_is_the_example_for_one_that_is_not(make_run, tmp_path):
    make_run(settings={}).train(tmp_path / "mopo" / "task" / "updates-12" / "0")
    for missing in ("mopo/task/0", "mopo/task", "mopo", "other/task/0"):
        with pytest.raises(Mistake) as refused:
            load_run(tmp_path / missing)
        assert str(refused.value).endswith(f"such as {tmp_path}/mopo/task/updates-12/0")


def test_what_cannot_be_loaded_is_named(make_run, tmp_path):
    with pytest.raises(Mistake, match=r"holds no config.yaml and checkpoint.pt"):
        load_run(tmp_path)
    make_run(settings={}).train(tmp_path)
    for text in ("[1]", "a: [", "\xff"):
        (tmp_path / CONFIG).write_text(text, encoding="latin-1")
        with pytest.raises(Mistake, match=r"config.yaml is damaged"):
            load_run(tmp_path)
    (tmp_path / CONFIG).unlink()
    with pytest.raises(Mistake, match=r"holds no config.yaml; "):
        load_run(tmp_path)
    with pytest.raises(Mistake, match="is not finished"):
        read_summary(tmp_path / "elsewhere" / "summary.json")
