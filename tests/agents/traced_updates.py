"""Run by a test: traces updates whole and compares, of the agents named or of all of them.

No shape checker, no code made.
"""

import sys
from dataclasses import replace
from functools import partial

import torch
from hydra.utils import get_class, instantiate

from reverie.agents.base import Agent
from reverie.datasets.dataset import Dataset
from reverie.datasets.replay import Mixture, Replay
from reverie.datasets.transition import Transition
from reverie.envs.specs import Spec
from reverie.training.launch.options import learners, read_option
from tests.agents.clones import standard_clone

SPEC = Spec(env_id=None, obs_dim=3, action_dim=2, action_low=(-1, -1), action_high=(1, 1))
SEEDS, ROWS, UPDATES = 2, 50, 4
REGULARISED = {
    "sac+spectral": {"coefficient": 0.1, "cap": 1.0},
    "sac+adversarial": {"attack": "fgsm", "radius_updates": 3, "radius_start": 0.001},
    "iql+adversarial": {"attack": "pgd", "steps": 2, "norm": "l2"},
}
"""Regularisers in an agent, with hyperparameters that make every part of them act."""
GRAPHS = {"td3_bc": 2, "rebrac": 2}
"""One for each phase of the policy's delay; every other agent has one."""


def hyperparameters_of(option: str) -> tuple[type, dict]:
    settings = read_option(option)
    cls = get_class(settings["_target_"])
    return cls, {key: value for key, value in settings.items() if not key.startswith("_")}


def learner(option: str) -> Agent:
    """`sac`, or `sac+spectral` with a regulariser."""
    agent, _, part = option.partition("+")
    cls, settings = hyperparameters_of(f"agent/{agent}")
    settings["hidden"] = [16]
    if part:
        regulariser, hyperparameters = hyperparameters_of(f"regulariser/{part}")
        hyperparameters |= REGULARISED[option]
        settings["regulariser"] = partial(regulariser, **hyperparameters)
    built = cls(spec=SPEC, seeds=SEEDS, updates=100, **settings)
    built.attach(untrained_ensemble())
    built.follow(standard_clone(SPEC))
    return built


def untrained_ensemble() -> torch.nn.Module:
    settings = read_option("world_model/ensemble")
    del settings["path"]
    settings |= {"hidden": [8], "weight_decay": [0.0, 0.0], "termination": "none"}
    model = instantiate(settings)(spec=SPEC, seeds=SEEDS, seed=0)
    model.load_state_dict({**model.state_dict(), "fitted": torch.tensor(True)})
    return model


def learn(option: str, wrap) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    rows = Transition(
        torch.randn(ROWS, 3),
        torch.rand(ROWS, 2) * 2 - 1,
        torch.randn(ROWS),
        torch.randn(ROWS, 3),
        torch.rand(ROWS) < 0.1,
        torch.rand(ROWS) < 0.5,
    )
    agent = learner(option)
    data = Dataset(
        name="toy",
        spec=SPEC,
        transitions=replace(rows, next_obs=rows.obs.roll(-1, 0)),
        truncated=torch.zeros(ROWS, dtype=torch.bool),
        valid_next=torch.ones(ROWS, dtype=torch.bool),
        episode_starts=torch.zeros(1, dtype=torch.int64),
    )
    mixture = Mixture({"real": Replay.of(agent.recorded(data))}, {"real": 8}, seeds=SEEDS)
    update = wrap(lambda: agent.update(mixture.sample()))
    for _ in range(UPDATES):
        update()
    return agent.state_dict()


def main() -> None:
    torch._dynamo.config.trace_autograd_ops = True
    for option in sys.argv[1:] or [*learners(), *REGULARISED]:
        graphs = []

        def count(graph, inputs, graphs=graphs):
            graphs.append(graph)
            return graph.forward

        torch._dynamo.reset()
        plain = learn(option, lambda function: function)
        traced = learn(
            option, lambda function: torch.compile(function, backend=count, fullgraph=True)
        )
        wanted = GRAPHS.get(option, 1)
        assert len(graphs) == wanted, f"{option}: {len(graphs)} graphs instead of {wanted}"
        for name, value in plain.items():
            # Adam turns rounding into small steps of its own, so entries are compared by scale.
            error = (traced[name].float() - value.float()).abs().max()
            assert error <= 1e-5 + 1e-2 * value.abs().max(), f"{option}: {name} is off by {error}"
    print("agree")


if __name__ == "__main__":
    main()
