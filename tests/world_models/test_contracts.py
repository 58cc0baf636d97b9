"""What must hold for every world model, filter and source in conf/; a new one joins by its YAML."""

import inspect
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra.utils import get_object, instantiate

from reverie.datasets.build import build
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.training.launch.options import read_option
from reverie.world_models.base import Step
from reverie.world_models.filters import KeepAll
from reverie.world_models.morec.dynamics_reward import DynamicsReward

SEEDS, ROWS, D, A = 2, 6, 3, 1
# A task that every model, the exact one included, can step.
SPEC = Spec(env_id="Pendulum-v1", obs_dim=D, action_dim=A, action_low=(-2.0,), action_high=(2.0,))
SMALL = {
    "hidden": [16],
    "width": 8,
    "weight_decay": [0.0, 0.0],
    "max_epochs": 2,
    "termination": "none",
}
NEEDS_SELECTION = 10


def options(group):
    return sorted(path.stem for path in Path("conf", group).glob("*.yaml"))


def settings(group, option, **changes):
    loaded = read_option(f"{group}/{option}")
    loaded.pop("path", None)
    if "dropout_passes" not in loaded and changes.get("uncertainty") == "dropout":
        changes.pop("uncertainty")  # which is an ensemble's alone
    return loaded | {key: value for key, value in changes.items() if key in loaded}


MODELS = [name for name in options("world_model") if name != "none"]
SOURCES = [name for name in options("source") if name != "none"]


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    obs = torch.randn(400, D, generator=generator)
    action = torch.rand(400, A, generator=generator) * 2 - 1
    return build(
        name="contract",
        spec=SPEC,
        obs=obs.numpy(),
        action=action.numpy(),
        reward=obs[:, 0].numpy(),
        terminated=torch.zeros(400, dtype=torch.bool).numpy(),
        truncated=(torch.arange(400) % 20 == 19).numpy(),
        next_obs=(0.9 * obs + 0.1 * action).numpy(),
        reference=None,
        origin={},
        clip_actions=False,
    )


@pytest.fixture(params=MODELS)
def make_model(request):
    return lambda **changes: instantiate(
        settings("world_model", request.param, **{**SMALL, **changes})
    )(spec=SPEC, seeds=SEEDS, seed=0)


@pytest.mark.parametrize("candidates", [1, NEEDS_SELECTION])
def test_a_step_has_its_shapes_and_types(make_model, data, candidates):
    model = make_model()
    described = model.fit(data)
    assert described and not any(isinstance(value, torch.Tensor) for value in described.values())
    step = model.step(torch.randn(SEEDS, ROWS, D), torch.rand(SEEDS, ROWS, A), candidates)
    lead = (candidates, SEEDS, ROWS)
    assert step.next_obs.shape == (*lead, D) and step.reward.shape == lead
    assert step.terminated.shape == lead and step.terminated.dtype == torch.bool
    assert step.uncertainty.shape == (SEEDS, ROWS) and (step.uncertainty >= 0).all()
    assert step.next_obs.isfinite().all()
    # What a step needs to go on is there from the start, or never.
    start = model.initial_state(torch.randn(SEEDS, ROWS, D))
    assert (step.state is None) == (start is None)
    if start is not None:
        assert step.state.shape == (candidates, *start.shape)


def test_state_and_signature_are_all_a_copy_needs(make_model, data):
    model, copy = make_model(), make_model()
    model.fit(data)
    copy.load_state_dict(model.state_dict())
    assert copy.signature() == model.signature()
    obs, action = torch.randn(SEEDS, ROWS, D), torch.rand(SEEDS, ROWS, A)
    torch.manual_seed(1)
    first = model.step(obs, action)
    torch.manual_seed(1)
    second = copy.step(obs, action)
    assert torch.equal(first.next_obs, second.next_obs)
    assert torch.equal(first.uncertainty, second.uncertainty)


def test_a_fit_leaves_the_runs_random_stream_alone(make_model, data):
    model = make_model()
    state = torch.get_rng_state()
    model.fit(data)
    assert torch.equal(state, torch.get_rng_state())


def test_the_same_seed_fits_the_same_model(make_model, data):
    first, second = make_model(), make_model()
    first.fit(data)
    second.fit(data)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_a_poisoned_seed_steps_alone(make_model, data):
    model = make_model()
    model.fit(data)
    obs, action = torch.randn(SEEDS, ROWS, D), torch.rand(SEEDS, ROWS, A)
    torch.manual_seed(1)
    clean = model.step(obs, action, 5)
    obs[1] = float("nan")
    torch.manual_seed(1)
    dirty = model.step(obs, action, 5)
    assert torch.equal(clean.next_obs[:, 0], dirty.next_obs[:, 0])
    assert torch.equal(clean.uncertainty[0], dirty.uncertainty[0])


def test_data_of_another_task_are_refused(make_model, data):
    other = Spec(
        env_id=None, obs_dim=D, action_dim=2, action_low=(-1.0,) * 2, action_high=(1.0,) * 2
    )
    with pytest.raises(ValueError, match="describe different tasks"):
        make_model().fit(type(data)(**{**vars(data), "spec": other}))


def test_a_step_is_a_tree_with_and_without_a_state():
    """Compilation and vmap see its tensors; None is no leaf."""
    step = Step(torch.ones(1, 2, 3), torch.ones(1, 2), torch.ones(1, 2) > 0, torch.ones(2))
    for each, count in ((step, 4), (replace(step, state=torch.ones(1, 2, 5)), 5)):
        leaves, shape = torch.utils._pytree.tree_flatten(each)
        again = torch.utils._pytree.tree_unflatten([leaf.clone() for leaf in leaves], shape)
        assert len(leaves) == count and (again.state is None) == (each.state is None)


class Distance(DynamicsReward):
    """Stands for a fitted dynamics reward."""

    def __init__(self):
        torch.nn.Module.__init__(self)

    def score(self, obs, action, next_obs):
        return -next_obs.square().sum(-1)


@pytest.mark.parametrize("option", options("filter"))
def test_a_filter_leaves_one_candidate_and_judges_every_row(option, data):
    hyperparameters = settings("filter", option)
    asked = inspect.signature(get_object(hyperparameters["_target_"]).__init__).parameters
    parts = {"dynamics_reward": Distance()} if "dynamics_reward" in asked else {}
    judge = instantiate(hyperparameters)(**parts)
    model = instantiate(settings("world_model", "ensemble", **SMALL))(
        spec=SPEC, seeds=SEEDS, seed=0
    )
    model.fit(data)
    assert isinstance(judge.prepare(data, model, seeds=SEEDS, discount=0.9), str | None)
    assert all(value.shape == (SEEDS,) for value in judge.metrics().values())
    k = judge.candidates
    step = Step(
        next_obs=torch.randn(k, SEEDS, ROWS, D),
        reward=torch.randn(k, SEEDS, ROWS),
        terminated=torch.zeros(k, SEEDS, ROWS, dtype=torch.bool),
        uncertainty=torch.rand(SEEDS, ROWS),
    )
    obs, action = torch.randn(SEEDS, ROWS, D), torch.rand(SEEDS, ROWS, A)
    filtered = judge(obs, action, step)
    assert filtered.step.next_obs.shape == (1, SEEDS, ROWS, D) and filtered.step.state is None
    # A copy of the next observations stands for the state: both must be of the same outcome.
    filtered = judge(obs, action, replace(step, state=step.next_obs.double()))
    assert torch.equal(filtered.step.state, filtered.step.next_obs.double())
    for judged in (filtered.keep, filtered.goes_on):
        assert judged.shape == (SEEDS, ROWS) and judged.dtype == torch.bool


def test_selection_then_penalty_compose_with_every_model(make_model, data):
    try:
        model = make_model(uncertainty="dropout", dropout=0.2)  # where the model knows these
    except Mistake:  # knows and refuses them
        model = make_model()
    model.fit(data)
    hyperparameters = settings("filter", "morec", select="argmax", penalty=0.5)
    judge = instantiate(hyperparameters)(dynamics_reward=Distance())
    obs, action = torch.randn(SEEDS, ROWS, D), torch.rand(SEEDS, ROWS, A)
    step = model.step(obs, action, judge.candidates, model.initial_state(obs))
    best = step.next_obs.square().sum(-1).argmin(0, keepdim=True)
    kept = judge(obs, action, step).step
    assert torch.equal(kept.next_obs, step.next_obs.take_along_dim(best.unsqueeze(-1), 0))
    wanted = step.reward.take_along_dim(best, 0) - 0.5 * step.uncertainty
    torch.testing.assert_close(kept.reward, wanted)


@pytest.mark.parametrize("option", SOURCES)
@pytest.mark.slow
def test_a_source_gives_as_many_rows_as_it_promises(make_model, data, option):
    model = make_model()
    model.fit(data)
    hyperparameters = settings("source", option, starts=ROWS, retain=2, records=5, chunk=2)
    parts = {"spec": SPEC, "seeds": SEEDS, "model": model, "transition_filter": KeepAll()}
    distribution = {"noise_distribution": settings("noise_distribution", "log_normal")}
    generator = instantiate(settings("generator", "transition_small") | distribution)
    parts["generator"] = generator(spec=SPEC, seeds=SEEDS, seed=0)
    parts["sampler"] = instantiate(settings("sampler", "dpm_solver_2m", steps=2))()
    parts |= dict.fromkeys(("guidance", "behaviour"))

    def build(node):
        asked = inspect.signature(get_object(node["_target_"]).__init__).parameters
        return instantiate(node)(**{name: parts[name] for name in asked if name in parts})

    # That of a world model; the true task's needs an environment.
    parts["simulator"] = build(settings("simulator", "world_model"))
    source = build(hyperparameters)
    starts = source.starts
    rows, keep = source.generate(
        lambda obs: torch.zeros(*obs.shape[:-1], A), torch.randn(SEEDS, starts, D)
    )
    assert rows.shape == keep.shape and keep.dtype == torch.bool
    assert keep.shape[0] == SEEDS and keep.shape[1] <= source.capacity
    assert (
        not rows.is_real.any()
        and source.every >= 1
        and starts == hyperparameters.get("starts", starts)
    )
    assert source.stream != "real"
    source.restore(source.contents())


def test_indices_of_a_state_point_at_what_is_there(make_model):
    """Else a GPU ends without a word that helps."""
    model = make_model()
    state = {name: each.clone() for name, each in model.state_dict().items()}
    for name in [name for name, each in state.items() if each.dtype == torch.int64 and each.dim()]:
        for wrong in (-1, 1_000):
            spoiled = state | {name: torch.full_like(state[name], wrong)}
            with pytest.raises(ValueError, match=rf"{name.split('.')[-1]} must lie in \[0, "):
                model.load_state_dict(spoiled)
    model.load_state_dict(state)
