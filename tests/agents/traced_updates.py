"""Run by a test: traces every agent's update whole and compares. No shape checker, no code made."""

from pathlib import Path

import torch
import yaml
from hydra.utils import get_class

from agents.base import Agent
from datasets.replay import Mixture, Replay
from datasets.transition import Transition
from envs.specs import Spec

SPEC = Spec(env_id=None, obs_dim=3, action_dim=2, action_low=(-1, -1), action_high=(1, 1))
SEEDS, ROWS, UPDATES = 2, 50, 4
GRAPHS = {"td3_bc": 2}
"""One for each phase of the policy's delay; every other agent has one."""


def learner(option: str) -> Agent:
    settings = yaml.safe_load(Path(f"conf/agent/{option}.yaml").read_text())
    cls = get_class(settings["_target_"])
    settings = {key: value for key, value in settings.items() if not key.startswith("_")}
    return cls(spec=SPEC, seeds=SEEDS, updates=100, **{**settings, "hidden": [16]})


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
    mixture = Mixture({"real": Replay.of(rows)}, {"real": 8}, seeds=SEEDS)
    agent = learner(option)
    update = wrap(lambda: agent.update(mixture.sample()))
    for _ in range(UPDATES):
        update()
    return agent.state_dict()


def main() -> None:
    torch._dynamo.config.trace_autograd_ops = True
    for path in sorted(Path("conf/agent").glob("*.yaml")):
        graphs = []

        def count(graph, inputs, graphs=graphs):
            graphs.append(graph)
            return graph.forward

        torch._dynamo.reset()
        plain = learn(path.stem, lambda function: function)
        traced = learn(
            path.stem, lambda function: torch.compile(function, backend=count, fullgraph=True)
        )
        wanted = GRAPHS.get(path.stem, 1)
        assert len(graphs) == wanted, f"{path.stem}: {len(graphs)} graphs instead of {wanted}"
        for name, value in plain.items():
            # Adam turns rounding into small steps of its own, so entries are compared by scale.
            error = (traced[name].float() - value.float()).abs().max()
            assert error <= 1e-5 + 1e-2 * value.abs().max(), (
                f"{path.stem}: {name} is off by {error}"
            )
    print("agree")


if __name__ == "__main__":
    main()
