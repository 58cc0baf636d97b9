"""A run that starts from the networks of another one: which bits, and what is refused."""

import dataclasses
import shutil

import pytest
import torch

from reverie.datasets.options import load
from reverie.mistake import Mistake
from reverie.training import checkpoint
from reverie.training.files import load_tensors, save_tensors
from reverie.training.initialisation import Initialisation, digest, pinned
from reverie.training.loop import Periods
from reverie.training.mixing import mix
from reverie.training.run import Run
from reverie.training.run_directory import CONFIG


class Killed(BaseException):
    """Ends a process where a test says so."""


@pytest.fixture(scope="module")
def data():
    return load("builtin/pendulum-mixed", episodes=6)


@pytest.fixture(scope="module")
def other_data():
    return load("builtin/pendulum-mixed", episodes=7, seed=5)


@pytest.fixture
def make_run(make_sac):
    def make(data, *, agent_seed=3, seeds=2, hidden=(16, 16), settings=(), **changes):
        torch.manual_seed(agent_seed)
        agent = make_sac(
            data.spec,
            seeds=seeds,
            hidden=list(hidden),
            normalise_critic_obs=True,
            actor_cosine=True,
        )
        agent.prepare(data)
        mixture, sources = mix(data, seeds=seeds, batch_size=8)
        known = {"updates": 12, "periods": Periods(log=2, evaluate=4, checkpoint=6)}
        known["settings"] = {"name": "by hand", "seeds": seeds, **dict(settings)}
        return Run(data, agent, mixture, sources, **(known | changes))

    return make


@pytest.fixture
def source(make_run, data, tmp_path):
    run = make_run(data)
    run.train(tmp_path / "source")
    return run


@pytest.fixture
def begin(make_run, other_data, tmp_path):
    """A run on other data that starts from the one in `source`."""

    def make(optimiser="fresh", **changes):
        where, own = tmp_path / "source", changes.pop("settings", {})
        return make_run(
            changes.pop("data", other_data),
            **{"agent_seed": 9, **changes},
            settings={"init": str(where), "init_sha256": None} | own,
            initialisation=Initialisation(where, optimiser),
        )

    return make


def of_adam(name):
    return "optimiser." in name


def test_all_but_the_optimisers_has_the_bits_of_the_other_run(source, begin):
    run = begin()
    before = {name: value.clone() for name, value in run.agent.state_dict().items()}
    said = run.initialisation.give(run.agent, run.settings)
    assert "after update 12, optimisers fresh" in said
    theirs, now = source.agent.state_dict(), run.agent.state_dict()
    assert any("mean" in name and "critics" in name for name in now)  # statistics of its data
    for name, value in now.items():
        assert torch.equal(value, (before if of_adam(name) else theirs)[name]), name
    obs = torch.randn(2, 5, 3)
    assert torch.equal(run.policy(obs), source.policy(obs))


def test_moments_are_kept_where_the_rate_is_constant_and_rates_are_those_of_the_new_run(
    source, begin
):
    run = begin("keep")
    run.agent.critic_optimiser.learning_rate.fill_(0.5)
    run.initialisation.give(run.agent, run.settings)
    ours, theirs = run.agent, source.agent
    assert torch.equal(ours.critic_optimiser.mean_0, theirs.critic_optimiser.mean_0)
    assert torch.equal(ours.critic_optimiser.steps, theirs.critic_optimiser.steps)
    assert ours.critic_optimiser.learning_rate == 0.5
    # An annealed rate has reached zero at the end of the other run.
    assert ours.actor_optimiser.annealed and not ours.actor_optimiser.steps.any()
    assert not ours.actor_optimiser.mean_0.any()


def test_a_run_begins_there_and_is_the_same_without_the_other_run_after_its_checkpoint(
    source, begin, tmp_path
):
    seen = []
    run = begin(evaluate_first=True)
    first = {name: value.clone() for name, value in source.agent.actor.state_dict().items()}
    run.on_evaluation = lambda update, episodes: seen.append(
        update > 0 or all(torch.equal(v, first[k]) for k, v in run.agent.actor.state_dict().items())
    )
    run.train(tmp_path / "whole")
    assert seen and seen[0] is True

    def die(update, episodes):
        if update == 8:  # there is a checkpoint of update 6
            raise Killed

    with pytest.raises(Killed):
        begin(evaluate_first=True, on_evaluation=die).train(tmp_path / "killed")
    shutil.rmtree(tmp_path / "source")
    resumed = begin(evaluate_first=True)
    resumed.train(tmp_path / "killed")
    whole, ends = run.agent.state_dict(), resumed.agent.state_dict()
    assert all(torch.equal(whole[name], ends[name]) for name in whole)
    begin(evaluate_first=True).train(tmp_path / "killed")  # finished
    with pytest.raises(Mistake, match=r"source holds no checkpoint\.pt; give the directory"):
        begin().train(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_changed_run_is_refused_before_the_first_checkpoint_only(
    source, begin, make_run, data, tmp_path
):
    def die(update, episodes):
        raise Killed

    early = {"on_evaluation": die, "evaluate_first": True}
    with pytest.raises(Killed):
        begin(**early).train(tmp_path / "early")
    with pytest.raises(Killed):
        begin(on_evaluation=lambda update, _: die(0, None) if update == 8 else None).train(
            tmp_path / "late"
        )
    before = digest(tmp_path / "source")
    shutil.rmtree(tmp_path / "source")
    make_run(data, agent_seed=4).train(tmp_path / "source")
    with pytest.raises(Mistake, match=f"holds a run with init_sha256={before}"):
        begin().train(tmp_path / "early")
    begin().train(tmp_path / "late")
    with pytest.raises(Mistake, match="has changed since it was named"):
        begin(settings={"init_sha256": before}).train()


def test_one_seed_serves_all_and_another_number_is_refused(make_run, data, begin, tmp_path):
    single = make_run(data, seeds=1)
    single.train(tmp_path / "source")
    run = begin("keep", seeds=3)
    run.initialisation.give(run.agent, run.settings)
    obs = torch.randn(1, 5, 3)
    assert torch.equal(run.policy(obs.expand(3, 5, 3)), single.policy(obs).expand(3, 5, 1))
    run.train()  # whose seeds part, for their batches differ
    weight = next(run.agent.actor.parameters())
    assert not torch.equal(weight[0], weight[1])
    shutil.rmtree(tmp_path / "source")
    make_run(data, seeds=2).train(tmp_path / "source")
    with pytest.raises(Mistake, match="source holds 2 seeds, this run has 3; set seeds=2"):
        begin(seeds=3).train()


def refused(run):
    before = {name: value.clone() for name, value in run.agent.state_dict().items()}
    with pytest.raises(Mistake) as error:
        run.train()
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in run.agent.state_dict().items())
    return str(error.value)


def test_other_spaces_networks_and_activations_are_refused_in_one_line(source, begin, other_data):
    assert "critics" in refused(begin(hidden=(16, 8))) or "actor" in refused(begin(hidden=(16, 8)))
    spec = dataclasses.replace(other_data.spec, action_low=(-1.0,))
    narrow = dataclasses.replace(other_data, spec=spec)
    said = refused(begin(data=narrow))
    assert "trained with action_low [-2.0], the dataset of this run has [-1.0]" in said
    said = refused(begin(settings={"agent": {"activation": "tanh"}}))
    assert "agent.activation=None, this run has tanh; set the same" in said


def test_columns_of_other_names_are_refused_where_both_are_known(make_run, data, begin, tmp_path):
    def named(*names):
        return dataclasses.replace(data, spec=dataclasses.replace(data.spec, obs_names=names))

    make_run(named("cos", "sin", "speed")).train(tmp_path / "source")
    run = begin(data=data)
    run.initialisation.give(run.agent, run.settings)
    said = refused(begin(data=named("sin", "cos", "speed")))
    assert "obs_names ['cos', 'sin', 'speed']" in said and "['sin', 'cos', 'speed']" in said


def test_another_agent_is_refused_and_both_are_named(source, begin, tmp_path):
    path = tmp_path / "source" / checkpoint.FILE
    record = load_tensors(path, checkpoint.KIND)
    record["identity"]["agent"] = "their_agents.Mine"
    rewrite(path, record)
    said = refused(begin())
    assert "the class their_agents.Mine, this run learns with reverie.agents.sac.SAC" in said


def rewrite(path, record):
    contents = {key: value for key, value in record.items() if key not in ("reverie", "format")}
    save_tensors(path, checkpoint.KIND, contents)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda record: record.pop("identity"),
        lambda record: record.update(spec={"obs_dim": 3}),
        lambda record: record.update(agent=[1, 2]),
        lambda record: record["identity"].update(seeds="many"),
        lambda record: record.update(settings=[1]),
        lambda record: record.update(update=float("inf")),
        lambda record: record.update(update=torch.zeros(2)),
    ],
)
def test_a_strangers_checkpoint_that_is_none_is_one_line(source, begin, tmp_path, spoil):
    path = tmp_path / "source" / checkpoint.FILE
    record = load_tensors(path, checkpoint.KIND)
    spoil(record)
    rewrite(path, record)
    assert "is damaged" in refused(begin())


def test_networks_that_are_not_finite_and_damaged_files_are_refused(source, begin, tmp_path):
    path = tmp_path / "source" / checkpoint.FILE
    whole = path.read_bytes()
    record = load_tensors(path, checkpoint.KIND)
    next(v for k, v in record["agent"].items() if k.startswith("actor")).fill_(float("nan"))
    rewrite(path, record)
    assert "weights that are not finite" in refused(begin())
    path.write_bytes(whole[: len(whole) // 2])
    assert "checkpoint.pt cannot be read" in refused(begin())


def test_a_run_does_not_start_from_itself(source, tmp_path):
    with pytest.raises(Mistake, match="is the run directory itself"):
        pinned({"init": str(tmp_path / "source")}, tmp_path / "source")


def test_a_digest_is_recorded_even_where_the_settings_were_lost(source, begin, tmp_path):
    begin().train(tmp_path / "run")
    (tmp_path / "run" / CONFIG).unlink()
    known = pinned({"init": str(tmp_path / "source")}, tmp_path / "run")
    assert known["init_sha256"] == digest(tmp_path / "source")


def test_equal_sizes_of_another_task_are_said(source, begin, other_data):
    spec = dataclasses.replace(
        other_data.spec, env_id="Elsewhere-v0", obs_names=("a", "b", "c"), action_names=("u",)
    )
    run = begin(data=dataclasses.replace(other_data, spec=spec))
    said = run.initialisation.give(run.agent, run.settings)
    assert "its environment was Pendulum-v1, this one's is Elsewhere-v0" in said
    assert "only this dataset has obs_names, so their order is not compared" in said
    same = begin()
    assert "environment" not in same.initialisation.give(same.agent, same.settings)


def test_columns_in_another_order_are_refused_with_the_order(make_run, begin, data, tmp_path):
    named = dataclasses.replace(data.spec, obs_names=("a [cm]", "b", "c"), action_names=("u",))
    make_run(dataclasses.replace(data, spec=named)).train(tmp_path / "source")
    swapped = dataclasses.replace(named, obs_names=("b", "a [cm]", "c"))
    run = begin(data=dataclasses.replace(data, spec=swapped))
    order = r"""'dataset.columns.observations=\["a \[cm\]", "b", "c"\]'"""
    with pytest.raises(Mistake, match=f"put them into that order, {order}"):
        run.initialisation.give(run.agent, run.settings)
