"""A seed with a number of its own learns as in a run where all seeds have that number."""

import pytest
import torch
from hydra.utils import get_class

from reverie.settings import parameters
from reverie.training.launch.options import learners, read_option
from reverie.training.population import differs_by_seed
from reverie.world_models.per_seed import as_list, as_tensor, set_per_seed
from tests.agents.clones import standard_clone


def supporting():
    """Every number that seeds may differ in, with an agent whose class declares it."""
    for agent in learners():
        settings = read_option(f"agent/{agent}")
        cls = get_class(settings["_target_"])
        inherited = parameters(cls.__base__)
        for name, parameter in parameters(cls).items():
            declared = differs_by_seed(parameter.annotation)
            if declared and name not in inherited and agent != "ravl":  # EDAC's class
                yield agent, name, settings[name]


PAIRS = [pytest.param(*found, id="-".join(found[:2])) for found in supporting()]


LIVELY = {"imitation": 1.0}
"""A value that acts, of numbers whose usual one is nothing."""


@pytest.mark.parametrize(("option", "name", "usual"), PAIRS)
def test_a_seed_learns_as_if_all_had_its_number(
    make_agent, make_model, spec, make_rows, option, name, usual
):
    if name == "expectile":
        values = [0.5, 0.75, 0.875]  # one minus each is exact, in float32 as in Python
    else:
        values = [(usual or LIVELY.get(name, -1.0)) * factor for factor in (0.5, 1.0, 2.0)]

    def train(value, poisoned=False):
        torch.manual_seed(0)
        agent = make_agent(option, seeds=3, **{name: value})
        agent.attach(make_model(spec, 3))
        agent.follow(standard_clone(spec))
        for _ in range(2):
            batch = make_rows(agent, 3, 16)
            if poisoned:
                batch.reward[1] = torch.nan
            agent.update(batch)
        acts = agent.act(torch.ones(3, 1, 3), deterministic=True)
        return {**dict(agent.named_parameters()), "acts": acts}

    population = train(values)
    alone = {seed: train(values[seed]) for seed in (0, 2)}
    for key, parameter in population.items():
        for seed in alone:
            assert torch.equal(parameter[seed], alone[seed][key][seed]), (key, seed)
    assert any(not torch.equal(alone[0][key][2], alone[2][key][2]) for key in population)
    poisoned = train(values, poisoned=True)
    for key, parameter in population.items():
        assert torch.equal(parameter[::2], poisoned[key][::2]), key


def test_every_method_with_a_number_of_its_own_supports_seeds():
    found = {option for option, _, _ in supporting()}
    assert found >= {"cql", "darc", "edac", "h2o", "iql", "mobile", "sac", "td3_bc"}
    assert found >= {"analytic", "awac", "fql", "leq", "rebrac", "rvs", "td3_awr"}


@pytest.mark.parametrize(
    ("option", "changes", "message"),
    [
        ("edac", {"diversity": [1.0, -1.0]}, "must not be negative"),
        ("mobile", {"penalty": [1.0, -1.0]}, "must not be negative"),
        ("iql", {"expectile": [0.5, 1.0]}, "between 0 and 1"),
        ("cql", {"conservative_weight": [1.0, 0.0]}, "must be positive"),
        ("h2o", {"excess_weight": [1.0, -1.0]}, "must not be negative"),
        ("darc", {"correction": [1.0, -1.0]}, "must not be negative"),
        ("rebrac", {"actor_penalty": [1.0, -1.0]}, "actor_penalty=.* must not be negative"),
        ("rebrac", {"critic_penalty": [1.0, -1.0]}, "critic_penalty=.* must not be negative"),
        ("td3_awr", {"expectile": [0.5, 1.0]}, "between 0 and 1"),
        ("awac", {"inverse_temperature": [1.0, -1.0]}, "must not be negative"),
    ],
)
def test_every_number_of_a_list_is_checked(make_agent, option, changes, message):
    with pytest.raises(ValueError, match=message):
        make_agent(option, seeds=2, **changes)


def test_a_number_stays_a_number_and_a_list_becomes_a_buffer_of_seeds():
    module = torch.nn.Module()
    set_per_seed(module, "one", 0.5, trailing=2)
    set_per_seed(module, "many", [0.5, 1.0], trailing=2)
    assert module.one == 0.5 and module.many.shape == (2, 1, 1)
    assert not module.state_dict() and "many" in dict(module.named_buffers())
    assert as_tensor(2.0, 3).tolist() == [2, 2, 2] and as_tensor([1.0, 2.0], 2).tolist() == [1, 2]
    assert as_list(1.0) == [1.0]
