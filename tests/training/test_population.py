"""Which settings may be lists over the seeds, and what is said of the others."""

import pytest

from reverie.training.population import label, population, settings_of_seed

PENALTY = {"_target_": "reverie.world_models.filters.UncertaintyPenalty", "penalty": 1.0}
AGENT = {
    "_target_": "reverie.agents.edac.EDAC",
    "diversity": 1.0,
    "discount": 0.99,
    "hidden": [16, 16],
    "target_entropy": None,
    "regulariser": {"_target_": "reverie.agents.regularisers.SpectralNorm", "coefficient": 0.1},
}


def settings(seeds=2, top=None, **agent):
    return {"seeds": seeds, **(top or {}), "agent": {**AGENT, **agent}, "filter": PENALTY}


def test_lists_of_supported_numbers_are_the_population():
    assert population(settings()) == {}
    found = population(settings(diversity=[0.5, 1], target_entropy=[-1.0, -2.0]))
    assert found == {"agent.diversity": [0.5, 1], "agent.target_entropy": [-1.0, -2.0]}
    assert label(found, 1) == "agent.diversity=1, agent.target_entropy=-2"
    flat = {"agent.diversity": [0.5, 1], "seeds": 2}
    assert settings_of_seed(flat, {"agent.diversity": [0.5, 1]}, 0) == {
        "agent.diversity": 0.5,
        "seeds": 2,
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            settings(discount=[0.9, 0.99]),
            r"agent.discount=\[0.9,0.99\] is one number .* "
            r"these may: agent.diversity, .*filter.penalty; or sweep over it with -m",
        ),
        (settings(top={"batch_size": [32, 64]}), r"batch_size=\[32,64\] is one number"),
        (settings(diversity=[0.5, 1, 2]), r"must hold as many numbers as there are seeds, 2"),
        (settings(diversity=["a", "b"]), r"agent.diversity=\[a,b\] must hold as many numbers"),
    ],
)
def test_other_lists_are_refused_with_the_keys_that_may(given, message):
    with pytest.raises(ValueError, match=message):
        population(given)
