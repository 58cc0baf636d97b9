"""Runs on action chunks: trained, killed and resumed, read back, scored, judged, exported."""

import io
import json
from functools import partial

import pytest
import torch
from omegaconf import OmegaConf
from rich.console import Console

import reverie
from reverie.agents.td3_bc import TD3BC
from reverie.datasets.columns import WithTaken
from reverie.mistake import Mistake
from reverie.training.collect.__main__ import require_sense
from reverie.training.export import __main__ as export
from reverie.training.launch import check as checker
from reverie.training.launch.make import compose_command
from reverie.training.ope.__main__ import evaluate as ope
from reverie.training.ope.conclusions import tell_horizon
from reverie.training.run_directory import METRICS

SMALL = (
    *("dataset=builtin/pendulum-mixed", "dataset.episodes=12", "dataset.chunks=5", "updates=20"),
    *("batch_size=32", "agent.hidden=[16,16]", "evaluate.every=10", "evaluate.episodes=1"),
    *("log_every=5", "checkpoint_every=5", "probe_starts=0", "value_gap.starts=2", "threads=1"),
    *("verdict.starts=4", "verdict.fqe.updates=10", "verdict.fqe.hidden=[8]"),
    "verdict.doubly_robust.updates=0",
)
MODEL = (
    *("world_model.hidden=[16]", "world_model.weight_decay=[0.0,0.0]", "world_model.max_epochs=1"),
    *("source.starts=20", "source.every=10", "source.horizon=3"),
)

GENERATOR = (
    *("generator=trajectory_small", "generator.network.width=16", "generator.steps=10"),
    *("generator.batch=8", "generator.measure_every=5", "generator.checkpoint_every=5"),
    *("generator.heldout_records=8", "generator.records.length=4", "source.records=20"),
    *("source.chunk=20", "source.every=10", "sampler.steps=2"),
)


class Killed(BaseException):
    """Ends a process where a test says so."""


def make(*changes, algorithm="td3_bc"):
    return reverie.make(f"algorithm={algorithm}", *SMALL, *changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chunks") / "run"
    make().train(folder)
    return folder


def test_the_agent_discounts_per_chunk_and_scores_are_per_step(finished):
    saved = reverie.load(finished)
    assert saved.agent.discount == 0.99**5 and saved.config.agent.discount == 0.99
    assert saved.policy(torch.zeros(1, 4, 3)).shape == (1, 4, 5)
    data, summary = saved.load_dataset(), saved.summary
    assert summary["dataset"]["behaviour"]["return_mean"] == pytest.approx(
        data.recorded.returns.mean().item()
    )
    assert summary["verdict"]["horizon"] == 40 and "chunks" in summary["dataset"]["origin"]
    # 200 steps of Pendulum pay no less than -16.3 each; chunks alone would be 40 of them.
    returns = saved.series["return"][1]
    assert (returns > -16.3 * 200).all() and (returns < -16.3 * 5).all()


@pytest.mark.slow
def test_a_killed_run_of_chunks_ends_with_the_same_bits(finished, tmp_path):
    def kill(update, episodes):
        if update == 10:
            raise Killed

    run = make()
    run.on_evaluation = kill
    with pytest.raises(Killed):
        run.train(tmp_path / "run")
    again = make()
    again.train(tmp_path / "run")
    assert (tmp_path / "run" / METRICS).read_text() == (finished / METRICS).read_text()
    whole = reverie.load(finished).agent.state_dict()
    assert all(torch.equal(each, whole[name]) for name, each in again.agent.state_dict().items())


def test_an_export_says_that_an_answer_is_a_chunk(finished):
    settings = {"tests": 16, "decisions": 3, "format": "numpy", "output": str(finished / "files")}
    export.export(compose_command("export", run=str(finished), **settings))
    manifest = json.loads((finished / "files" / "numpy" / "manifest.json").read_text())
    names = [each["name"] for each in manifest["outputs"]["action"]]
    assert manifest["chunk"] == 5
    assert names == ["action 0", *(f"action 0 +{step}" for step in range(1, 5))]


def test_a_return_of_chunks_is_not_compared_with_the_true_one(finished):
    settings = compose_command("ope", run=str(finished), true_return=True, threads=1)
    with pytest.raises(Mistake, match=r"true_return=true compares returns.*leave it at false"):
        ope(settings)


@pytest.mark.slow
def test_a_world_model_and_online_steps_take_chunks(tmp_path):
    run = make(*MODEL, "verdict.horizon=12", algorithm="mopo")
    summary = run.train(tmp_path / "mopo").summary
    verdict = summary["verdict"]
    assert verdict["model"] is not None and run.agent.discount == 0.99**5
    # Twelve control steps lie in three chunks of five.
    assert verdict["horizon"] == 3 and tell_horizon(verdict) == "3 chunks"
    online = make("online=collect", "online.refit_every=0", "online.every=5", "updates=20")
    series = online.train().series
    assert series["env_steps"][1][0].tolist() == [10, 20]


def test_cloning_is_told_what_was_taken_of_chunks_where_the_agent_itself_clones_nothing():
    cloned = make(*MODEL, algorithm="rambo").mixture["real"].sample(1, 4)
    assert isinstance(cloned, WithTaken) and cloned.taken.shape == (1, 4, 5)
    plain = make(*MODEL, "pretraining=none", algorithm="rambo").mixture["real"].sample(1, 4)
    assert not isinstance(plain, WithTaken)


def test_a_generator_draws_segments_of_chunks():
    run = make(*GENERATOR, "dataset.chunks=4", "updates=10", "real_ratio=0.25", algorithm="pgd")
    run.train()
    drawn = run.mixture["synthetic"]
    rows = drawn.layout.unpack(drawn.rows[:, :4])
    assert rows.action.shape == (1, 4, 4) and rows.action.abs().max() <= 1
    assert rows.taken.all() and rows.obs.isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["dataset.chunks=0"], "dataset.chunks=0 must be a whole number, at least 1"),
        (["dataset.chunks=1.5"], "dataset.chunks=1.5 must be a whole number"),
        (["dataset.chunks=201"], "dataset.chunks=201 is longer than any episode"),
        (["world_model=true_dynamics"], "the exact dynamics know single control steps"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_fitted(changes, message):
    with pytest.raises(Mistake) as caught:
        make(*changes)
    assert str(caught.value).startswith(message)


def test_an_agent_of_another_discount_is_refused():
    data = reverie.datasets.load("builtin/pendulum-mixed", episodes=12)
    chunks = reverie.datasets.chunk(data, 5, discount=0.9)
    small = [each for each in SMALL if not each.startswith("dataset")]
    with pytest.raises(Mistake, match=r"agent\.discount=0\.99 is not the 0\.9"):
        reverie.make("algorithm=td3_bc", *small, dataset=chunks)
    run = reverie.make("algorithm=td3_bc", *small, "agent.discount=0.9", dataset=chunks)
    assert run.agent.discount == 0.9**5
    own = reverie.make(*SMALL, agent=partial(TD3BC, discount=0.8))
    assert own.agent.discount == 0.8**5 and own.data.spec.chunk_discount == 0.8


def test_check_looks_at_the_recorded_rows_and_tells_the_chunks(capsys):
    assert checker.check(["dataset=builtin/pendulum-mixed", "dataset.chunks=5"]) == 0
    printed = capsys.readouterr().out
    assert "24,000" in printed
    assert "chunks of 5 control steps: 23,520 rows, actions of size 5" in printed


def test_a_collection_is_of_single_steps():
    config = compose_command("collect", env_id="Pendulum-v1", dataset={"chunks": 5})
    with pytest.raises(Mistake, match=r"^dataset\.chunks=5 must be null"):
        require_sense(OmegaConf.to_container(config, resolve=True))


def test_what_is_printed_of_a_chunked_run_has_one_line_a_problem():
    console = Console(file=io.StringIO(), width=100)
    reverie.make("algorithm=td3_bc", *SMALL, console=console)
    assert "problem" not in console.file.getvalue()
