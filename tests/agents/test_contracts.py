"""What must hold for every agent. A new agent joins by its YAML in `conf/agent/`."""

import copy

import pytest
import torch
from hydra.utils import get_class
from torch.utils._python_dispatch import TorchDispatchMode

from reverie.training.launch.options import learners, read_option
from tests.agents.clones import standard_clone

AGENTS = learners()
BLIND = {"bc", "rvs", "analytic"}  # look at no successor of a recorded row


@pytest.fixture(params=AGENTS)
def build(request, spec, make_model):
    """Builds the agent of one YAML with small networks; every number comes from the YAML."""

    def make(seeds):
        settings = read_option(f"agent/{request.param}")
        cls = get_class(settings.pop("_target_"))
        settings = {key: value for key, value in settings.items() if not key.startswith("_")}
        agent = cls(spec=spec, seeds=seeds, updates=1000, **{**settings, "hidden": [16, 16]})
        agent.attach(make_model(spec, seeds))
        agent.follow(standard_clone(spec))
        return agent

    make.option = request.param
    return make


def test_shapes_of_actions_and_measurements(build, make_rows):
    agent = build(3)
    for deterministic in (True, False):
        action = agent.act(torch.randn(3, 7, 3), deterministic=deterministic)
        assert action.shape == (3, 7, 2)
        assert action.abs().max() <= 1
    measured = agent.update(make_rows(agent, 3, 16))
    assert measured
    for name, value in measured.items():
        assert value.shape == (3,), name
        assert value.isfinite().all(), name
        assert not value.requires_grad, name


def test_deterministic_actions_use_no_randomness(build):
    agent, obs = build(2), torch.randn(2, 5, 3)
    state = torch.get_rng_state()
    first = agent.act(obs, deterministic=True)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, agent.act(obs, deterministic=True))


def test_moments_are_those_of_the_actions(build):
    agent, obs = build(2), torch.randn(2, 5, 3)
    mean, std = agent.moments(obs)
    assert torch.equal(mean, agent.act(obs, deterministic=True))
    torch.manual_seed(0)
    spread = agent.act(obs.repeat(1, 400, 1)).unflatten(1, (400, 5)).std(1)
    if std is None:
        assert (spread < 1e-6).all()
    else:
        assert std.shape == mean.shape and (std > 0).all()
        # Clipping and the curvature of tanh narrow what is drawn.
        assert (spread < 1.2 * std).all() and (spread > 0.3 * std).all()


def test_seeds_start_different(build):
    agent = build(2)
    action = agent.act(torch.ones(2, 1, 3), deterministic=True)
    assert not torch.equal(action[0], action[1])


@pytest.mark.parametrize("poison", ["parameters", "data"])
def test_a_poisoned_seed_leaves_the_others_bitwise_unchanged(build, make_rows, poison):
    def train(poisoned):
        torch.manual_seed(0)
        agent = build(3)
        batches = [make_rows(agent, 3, 16) for _ in range(5)]
        if poisoned and poison == "parameters":
            with torch.no_grad():
                for parameter in agent.parameters():
                    parameter[1] = float("nan")
        for batch in batches:
            if poisoned and poison == "data":
                batch.reward[1] = float("nan")
                batch.obs[1] = float("inf")
            agent.update(batch)
        return agent

    clean, dirty = train(False), train(True)
    for (name, a), (_, b) in zip(clean.named_parameters(), dirty.named_parameters(), strict=True):
        for seed in (0, 2):
            assert torch.equal(a[seed], b[seed]), (name, seed)
    assert not torch.equal(
        torch.cat([p[1].flatten() for p in clean.parameters()]),
        torch.cat([p[1].flatten() for p in dirty.parameters()]),
    )


def test_state_dict_is_the_whole_truth(build, make_rows):
    torch.manual_seed(0)
    agent = build(2)
    batches = [make_rows(agent, 2, 16) for _ in range(6)]
    for batch in batches[:3]:
        agent.update(batch)
    saved, state = copy.deepcopy(agent.state_dict()), torch.get_rng_state()
    for batch in batches[3:]:
        agent.update(batch)
    other = build(2)
    other.load_state_dict(saved)
    torch.set_rng_state(state)
    for batch in batches[3:]:
        other.update(batch)
    for name, value in agent.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_an_attached_world_model_is_no_part_of_the_agent(build, spec):
    agent = build(2)
    settings = read_option(f"agent/{build.option}")
    cls = get_class(settings.pop("_target_"))
    settings = {key: value for key, value in settings.items() if not key.startswith("_")}
    alone = cls(spec=spec, seeds=2, updates=1000, **{**settings, "hidden": [16, 16]})
    assert agent.state_dict().keys() == alone.state_dict().keys()
    alone.load_state_dict(agent.state_dict())
    obs = torch.randn(2, 5, 3)
    assert torch.equal(agent.act(obs, deterministic=True), alone.act(obs, deterministic=True))


def test_the_value_behind_a_terminal_does_not_matter(build, make_rows):
    """Poisoned next observations of terminal rows must not reach any parameter."""

    def train(next_obs_of_terminals):
        torch.manual_seed(0)
        agent = build(1)
        batch = make_rows(agent, 1, 32, terminated=torch.arange(32)[None] < 16)
        batch.next_obs[:, :16] = next_obs_of_terminals
        agent.update(batch)
        return torch.cat([p.flatten() for p in agent.parameters()])

    assert torch.equal(train(0.0), train(5.0))


def test_time_limits_still_bootstrap(build, make_rows):
    """Rows without `terminated` take their successor into account, unless nothing is valued."""

    def train(next_obs):
        torch.manual_seed(0)
        agent = build(1)
        batch = make_rows(agent, 1, 32, terminated=torch.zeros(1, 32, dtype=torch.bool))
        batch.next_obs[:] = next_obs
        agent.update(batch)
        return torch.cat([p.flatten() for p in agent.parameters()])

    assert torch.equal(train(0.0), train(5.0)) == (build.option in BLIND)


class _NoValues(TorchDispatchMode):
    """Refuses operations whose result depends on reading a tensor on the host."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "unique"), name
        return function(*args, **(kwargs or {}))


def test_no_update_reads_a_value_on_the_host(build, make_rows):
    agent = build(2)
    batch = make_rows(agent, 2, 16)
    with _NoValues():
        agent.update(batch)
        agent.act(batch.obs)
    with pytest.raises(AssertionError), _NoValues():
        batch.reward.sum().item()


@pytest.mark.parametrize(
    "options", [["sac"], pytest.param([], marks=pytest.mark.slow)], ids=["sac", "all"]
)
def test_every_update_is_traced_whole(command, options):
    """No update breaks into pieces or is traced anew, and a compiler changes no result."""
    done = command("tests/agents/traced_updates.py", *options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "agree" in done.stdout
