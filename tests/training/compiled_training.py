"""Run by a test: trains a little with and without compilation and compares. No shape checker."""

import logging
import sys

import torch
from hydra.utils import get_class

from reverie.agents.base import Agent
from reverie.datasets.replay import Mixture, Replay
from reverie.datasets.transition import Transition
from reverie.envs.specs import Spec
from reverie.training.compilation import compile_whole
from reverie.training.launch.options import read_option
from reverie.training.loop import rollout_round
from reverie.world_models.ensemble import ProbabilisticEnsemble
from reverie.world_models.filters import UncertaintyPenalty
from reverie.world_models.sources import BranchedRollouts
from tests.agents.clones import standard_clone

SPEC = Spec(env_id=None, obs_dim=3, action_dim=2, action_low=(-1, -1), action_high=(1, 1))
SEEDS = 2


def hyperparameters(option: str, **changes) -> dict:
    settings = read_option(option)
    return {**{k: v for k, v in settings.items() if not k.startswith("_")}, **changes}


def train(wrap, updates: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    option = f"agent/{sys.argv[1]}"
    cls: type[Agent] = get_class(read_option(option)["_target_"])
    agent = cls(spec=SPEC, seeds=SEEDS, updates=100, **hyperparameters(option, hidden=[32, 32]))
    settings = hyperparameters(
        "world_model/ensemble",
        hidden=[32, 32],
        weight_decay=[0.0] * 3,
        members=4,
        elites=3,
        termination="none",
    )
    settings.pop("path", None)
    model = ProbabilisticEnsemble(spec=SPEC, seeds=SEEDS, seed=0, **settings)
    model.load_state_dict({**model.state_dict(), "fitted": torch.tensor(True)})  # as it is
    agent.attach(model)
    agent.follow(standard_clone(SPEC))
    source = BranchedRollouts(
        model=model,
        transition_filter=UncertaintyPenalty(penalty=0.5, unit="raw"),
        horizon=2,
        starts=20,
        every=5,
        retain=2,
        actions="policy",
    )
    data = Transition(
        torch.randn(100, 3),
        torch.rand(100, 2) * 2 - 1,
        torch.randn(100),
        torch.randn(100, 3),
        torch.rand(100) < 0.1,
        torch.ones(100, dtype=torch.bool),
    )
    synthetic = Replay(data[:1], seeds=SEEDS, capacity=source.capacity)
    streams = {"real": Replay.of(data), "synthetic": synthetic}
    mixture = Mixture(streams, {"real": 8, "synthetic": 24}, seeds=SEEDS)
    refill = wrap(rollout_round(agent, mixture, "synthetic", source))
    update = wrap(lambda: agent.update(mixture.sample()))
    for step in range(updates):
        if step % source.every == 0:
            refill()
        update()
    return {**agent.state_dict(), "rows": mixture["synthetic"].rows.clone()}


if __name__ == "__main__":
    plain = train(lambda function: function, 12)

    # fullgraph=True inside: a graph break raises, and the fallback's warning would be an error.
    class Refuse(logging.Handler):
        def emit(self, record):
            raise SystemExit(record.getMessage())

    logging.getLogger("reverie.training.compilation").addHandler(Refuse())
    fast = train(lambda function: compile_whole(function, torch.device("cpu")), 12)
    for name, value in plain.items():
        error = (fast[name].float() - value.float()).abs().max()
        # One update agrees to 1e-5 of a tensor's largest entry; later ones amplify the rounding.
        assert error <= 2e-4 + 5e-3 * value.float().abs().max(), f"{name} differs by {error}"
    print("agree")
