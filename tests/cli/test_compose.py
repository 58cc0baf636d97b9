"""Every option of every group composes, and every combination that makes sense builds."""

import inspect
from functools import cache, partial
from itertools import chain, product
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

from reverie.agents.base import Agent
from reverie.datasets.dataset import Dataset
from reverie.envs.specs import Spec
from reverie.settings import parameters
from reverie.training.launch.options import is_chosen, learners, read_option
from reverie.training.launch.parts import arguments, build_streams, real_rows
from reverie.training.launch.requirements import require_parts_fit
from reverie.world_models.any_step import AnyStep
from reverie.world_models.base import Fitted, WorldModel
from reverie.world_models.ensemble import ProbabilisticEnsemble
from reverie.world_models.filters import TransitionFilter
from reverie.world_models.recurrent_ensemble import RecurrentEnsemble
from tests.agents.clones import standard_clone
from tests.cases import some

CONF = Path("conf").resolve()


def options(group):
    folder = CONF / group
    return sorted(str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml"))


def composed(*overrides, name="train"):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, overrides=list(overrides))


GENERATED = {"trajectories": "trajectory_small", "transitions": "transition_small"}
"""Sources that draw from a generator, and a small one of the right kind."""


@cache
def plain(*overrides):
    """The nodes of a small run of a file's data, interpolations as they stand."""
    small = ("dataset=file", "dataset.path=x.npz", "seeds=2", "batch_size=20")
    return OmegaConf.to_container(composed(*small, *overrides))


def typed(group, option):
    """What is typed for one option; a source that draws from a generator needs one."""
    drawn = group == "source" and option in GENERATED
    return (f"{group}={option}", *([f"generator={GENERATED[option]}"] if drawn else []))


def merged(**chosen):
    """What Hydra composes of options of several groups: each composed once, then put together.

    An option brings the nodes in which its composition differs from that of no option; what is
    chosen for a group beats what another option brings for it.
    """
    compositions = {each: plain(*typed(*each)) for each in chosen.items()}
    nodes = dict(plain())
    for brought in compositions.values():
        nodes |= {key: node for key, node in brought.items() if node != plain()[key]}
        for moved in plain().keys() - brought.keys():  # into the node of another group
            nodes.pop(moved, None)
    nodes |= {group: brought[group] for (group, _), brought in compositions.items()}
    return OmegaConf.create(nodes)


def mark_fitted(model):
    """Let a network predict with the weights it starts from."""
    model.load_state_dict({**model.state_dict(), "fitted": torch.tensor(True)})
    return model


SPEC = Spec(env_id="Pendulum-v1", obs_dim=3, action_dim=1, action_low=(-2.0,), action_high=(2.0,))


@pytest.mark.parametrize("dataset", options("dataset"))
def test_every_dataset_composes_under_its_own_key(dataset):
    config = composed(f"dataset={dataset}")
    assert config.dataset._target_.startswith("reverie.datasets.readers.")
    assert "name" in config.dataset and "dataset" not in config.dataset


def episodes(rows):
    """Rows as a dataset of one episode."""
    rows.next_obs[:-1] = rows.obs[1:]
    none = torch.zeros(len(rows.reward), dtype=torch.bool)
    return Dataset(
        name="toy",
        spec=SPEC,
        transitions=rows,
        truncated=none,
        valid_next=~none,
        episode_starts=torch.zeros(1, dtype=torch.int64),
    )


COMBINATIONS = [
    {
        "agent": agent,
        "world_model": world_model,
        "source": source,
        "simulator": simulator,
        "filter": filter_,
    }
    for agent, world_model, source, filter_ in product(
        learners(), options("world_model"), options("source"), options("filter")
    )
    if filter_ == "none" or agent == "sac"  # a filter never sees the agent
    for simulator in (options("simulator") if source == "simulator" else ["none"])
    # Generators step no world model, so a filter or a model changes nothing for them.
    if source not in GENERATED or (world_model, filter_) == ("none", "none")
]


def named(chosen):
    return "-".join(chosen.values())


@pytest.mark.parametrize("chosen", some(COMBINATIONS[::60], 4), ids=named)
def test_options_put_together_are_what_hydra_composes(chosen):
    lists = [typed(*each) for each in chosen.items()]
    assert OmegaConf.to_container(merged(**chosen)) == plain(*chain(*lists))


@pytest.mark.parametrize("chosen", some(COMBINATIONS, 13), ids=named)
def test_every_combination_builds(make_batch, chosen):
    agent, world_model, source, simulator, _ = chosen.values()
    config = merged(**chosen)
    if is_chosen(config.source):
        for key in {"starts", "warmup", "records"} & set(config.source):
            config.source[key] = 10
    built = instantiate(config.agent)(spec=SPEC, seeds=2, updates=10)
    assert isinstance(built, Agent)
    built.follow(standard_clone(SPEC))
    parts = {}
    if is_chosen(config.dynamics_reward):
        config.dynamics_reward.keep = 20  # as many snapshots as make two
        settings = {k: v for k, v in config.dynamics_reward.items() if k != "path"}
        parts["dynamics_reward"] = instantiate(settings)(spec=SPEC, seeds=2, seed=0)
    model = None
    if is_chosen(config.world_model):
        settings = {k: v for k, v in config.world_model.items() if k != "path"}
        model = instantiate(settings)(spec=SPEC, seeds=2, seed=0)
        assert isinstance(model, WorldModel)
        parts["world_model"] = model
    try:
        require_parts_fit(config)
    except ValueError:
        # Refused before anything is built, which test_mistakes covers.
        unused = "dynamics_reward" in parts and source == "none"
        assert model is None or unused or "simulator" in (source, simulator)
        return
    known = {"spec": SPEC, "seeds": 2, "model": model, **parts}
    asked = {name: known[name] for name in arguments(config.filter) & known.keys()}
    if asked.get("model", known) is not None:
        assert isinstance(instantiate(config.filter)(**asked), TransitionFilter)

    data = episodes(make_batch(30, action_dim=1))
    if isinstance(model, ProbabilisticEnsemble | AnyStep | RecurrentEnsemble):
        mark_fitted(model)
    try:
        built.attach(model)
    except ValueError as refused:
        if agent in ("leq", "analytic"):  # which need gradients, of any model
            assert world_model == "none"
        else:
            assert agent == "mobile" and world_model not in ("ensemble", "forced")
        assert "choose world_model=ensemble" in str(refused)
        return
    if is_chosen(config.generator):
        settings = {k: v for k, v in config.generator.items() if k != "path"}
        parts["generator"] = instantiate(settings)(spec=SPEC, seeds=2, seed=0)
        assert isinstance(parts["generator"], Fitted)
    mixture, sources = build_streams(config, data, parts, "cpu", agent=built)
    stream = "simulator" if source == "simulator" else "synthetic"
    rows = {"real": 20} if not sources else {"real": 1, stream: 19}
    assert mixture.rows == rows
    real = {"real": mixture["real"].sample(2, 8)}
    if agent in ("leq", "analytic") and world_model == "sindy":
        return  # they step the model, and equations that were not fitted predict nothing
    measured = built.update(real["real"])
    assert all(value.shape == (2,) for value in measured.values())


@pytest.mark.parametrize("agent", ["sac", "edac", "ravl"])
def test_an_agent_alone_gives_a_sensible_run(agent):
    config = composed(f"agent={agent}")
    assert config.world_model._target_.endswith("ProbabilisticEnsemble")
    assert config.source.horizon > 0 and config.filter.penalty > 0


def test_no_hyperparameter_hides_in_python():
    """Constructors named in conf/ take every number from there."""
    for group in (
        "agent",
        "world_model",
        "dynamics_reward",
        "forcing",
        "generator",
        "noise_distribution",
        "simulator",
        "sampler",
        "guidance",
        "condition",
        "behaviour",
        "warm_start",
        "source",
        "filter",
        "online",
        "model_updates",
        "pretraining",
        "planner",
    ):
        for option in options(group):
            if option == "none" and group != "filter":
                continue
            config = OmegaConf.create(read_option(f"{group}/{option}"))
            kinds = [get_object(node._target_) for node in (config, config.get("game")) if node]
            parameters = [
                p for k in kinds for p in inspect.signature(k.__init__).parameters.values()
            ]
            defaults = [p.name for p in parameters if p.default is not p.empty]
            assert not defaults, f"{group}={option}: {defaults} have values in Python"


@pytest.mark.parametrize(
    ("agent", "regulariser"),
    some(list(product(learners(), [o for o in options("regulariser") if o != "none"])), 5),
)
def test_a_regulariser_joins_every_agent_that_has_critics(make_batch, agent, regulariser):
    chosen = (f"agent={agent}", "dataset=builtin/hopper-random")
    normed = OmegaConf.select(composed(*chosen), "agent.critic_layer_norm", default=False)
    plain_critics = ["agent.critic_layer_norm=false"] if normed else []
    config = composed(*chosen, f"regulariser={regulariser}", *plain_critics)
    build = partial(instantiate(config.agent), spec=SPEC, seeds=2, updates=10)
    if "regulariser" not in parameters(get_object(config.agent._target_)):
        with pytest.raises(TypeError, match="regulariser"):
            build()
        return
    built = build()
    built.follow(standard_clone(SPEC))
    data = episodes(make_batch(24, action_dim=1))
    if agent in ("leq", "mobile"):
        settings = {k: v for k, v in config.world_model.items() if k != "path"}
        built.attach(mark_fitted(instantiate(settings)(spec=SPEC, seeds=2, seed=0)))
    assert type(built.regulariser) is get_object(config.agent.regulariser._target_)
    rows = built.recorded(data).map(lambda column: column.unflatten(0, (2, 12)))
    measured = built.update(rows)
    assert set(measured) & {"regularisation", "spectral_bound"}
    signature = inspect.signature(type(built.regulariser).__init__).parameters.values()
    assert all(each.default is each.empty for each in signature)
    assert composed(*chosen).agent.regulariser is None


LEARNERS = [name for name in options("world_model") if name not in ("none", "true_dynamics")]


@pytest.mark.parametrize("world_model", LEARNERS)
def test_forcing_joins_every_model_that_learns(world_model):
    def built(*chosen):
        config = composed(f"world_model={world_model}", "dataset=builtin/hopper-random", *chosen)
        settings = {key: value for key, value in config.world_model.items() if key != "path"}
        return instantiate(settings)(spec=SPEC, seeds=2, seed=0)

    own, forced = built(), built("forcing=adaptive", "world_model.forcing.steps=5")
    assert (forced.forcing.alpha, forced.forcing.steps) == ("adaptive", 5)
    assert own.forcing is None or own.forcing.steps == 16
    assert own.signature() != forced.signature()


def test_the_single_model_is_an_ensemble_of_one_with_more_patience():
    one, all_ = (composed(f"world_model={name}").world_model for name in ("single", "ensemble"))
    assert one.keys() == all_.keys() and (one.members, one.elites) == (1, 1)
    assert {key for key in one if one[key] != all_[key]} == {"members", "elites", "patience"}


def test_dreamed_states_need_dreamed_rows():
    asked = "agent.conservative_states=dreamed"
    with pytest.raises(ValueError, match=rf"{asked} has no synthetic transitions"):
        require_parts_fit(composed("algorithm=cql", asked))
    require_parts_fit(composed("algorithm=combo", asked))


def test_online_presets_compose_and_a_refit_without_a_model_is_refused():
    start = ("dataset=random", "dataset.env_id=Pendulum-v1")
    for preset, refits in (("mbpo_online", 250), ("sindy_rl_online", 500), ("sac_online", 0)):
        config = composed(f"algorithm={preset}", *start)
        require_parts_fit(config)
        online = instantiate(config.online)(spec=SPEC, seeds=2)
        assert online.refit_every == refits * config.online.every and composed().online is None
    with pytest.raises(ValueError, match=r"online\.refit_every=250 has no world model"):
        require_parts_fit(composed("algorithm=sac", "online=collect", *start))


def test_a_simulator_source_brings_a_perturbed_simulator_and_yields_to_what_is_typed():
    config = composed("source=simulator", "simulator.gravity=2", "simulator.friction=0.3")
    assert config.simulator._target_.endswith("PerturbedSimulator")
    assert (config.simulator.gravity, config.simulator.friction) == (2, 0.3)
    assert config.simulator.density == 1.0 and composed().simulator is None
    other = composed("algorithm=sac_sim", "simulator=world_model", "world_model=ensemble")
    assert other.simulator._target_.endswith("ModelSimulator")


@pytest.mark.parametrize(("preset", "agent"), [("pgd", "td3_bc"), ("pgd_iql", "iql")])
def test_policy_guided_diffusion_draws_240_of_256_rows_from_guided_segments(preset, agent):
    config = composed(f"algorithm={preset}", "budget=paper")
    assert real_rows(config) == 16 and config.batch_size == 256
    assert config.agent._target_ == composed(f"agent={agent}").agent._target_
    assert config.guidance._target_.endswith("PolicyGuidance") and config.source.every == 10000
    assert "length" in config.generator.records
    other = composed(f"algorithm={preset}", "generator=trajectory_paper", "guidance=none")
    assert other.generator.network.width == 1024 and other.guidance is None


@pytest.mark.parametrize(
    "distribution", [name for name in options("noise_distribution") if name != "none"]
)
@pytest.mark.parametrize("preset", ["pgd", "synther"])
def test_a_noise_distribution_joins_every_generator(preset, distribution):
    kind = {"pgd": "trajectory_small", "synther": "transition_small"}[preset]
    config = composed(
        f"algorithm={preset}", f"generator={kind}", f"noise_distribution={distribution}"
    )
    require_parts_fit(config)
    settings = {k: v for k, v in config.generator.items() if k != "path"}
    generator = instantiate(settings)(spec=SPEC, seeds=2, seed=0)
    assert type(generator.noise_distribution) is get_object(
        config.generator.noise_distribution._target_
    )
    assert generator.objective.noise_distribution is generator.noise_distribution


def test_synther_learns_from_five_million_generated_transitions_alone():
    config = composed("algorithm=synther", "budget=paper")
    assert real_rows(config) == 0 and config.guidance is None
    assert (config.source.records, config.source.every) == (5_000_000, None)
