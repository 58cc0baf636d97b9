"""Runs whose rollouts halt: what an agent learns of it, killed and resumed, with refits."""

import io

import pytest
import torch
from rich.console import Console

import reverie
from reverie.datasets.build import build
from reverie.envs.specs import Spec
from reverie.training.loop import Periods
from reverie.training.mixing import mix
from reverie.training.run import Run
from reverie.training.run_directory import METRICS
from reverie.world_models.base import Step, WorldModel
from reverie.world_models.filters import KeepAll
from reverie.world_models.halt import PessimisticHalt
from reverie.world_models.sources import BranchedRollouts

ROWS = 400
SMALL = (
    "algorithm=morel",
    "dataset.episodes=6",
    "seeds=2",
    "updates=40",
    "batch_size=16",
    "agent.hidden=[8]",
    "world_model.hidden=[8]",
    "world_model.weight_decay=[0.0,0.0]",
    "world_model.max_epochs=2",
    "filter.quantile=0.9",
    "source.starts=16",
    "source.every=10",
    "source.horizon=3",
    "log_every=5",
    "checkpoint_every=10",
    "evaluate.every=0",
    "value_gap.starts=0",
    "verdict.starts=0",
    "probe_starts=0",
    "threads=1",
)


class Killed(BaseException):
    """Ends a process where a test says so."""


class Corridor(WorldModel):
    """Moves by a fifth of the action along [-1, 1] and promises 1 in its unseen right half."""

    def fit(self, data, progress=None):
        return {}

    def signature(self):
        return {}

    def step(self, obs, action, candidates=1, state=None):
        lead = (candidates, *obs.shape[:-1])
        there = (obs + action / 5).clamp(-1, 1)
        reward = torch.where(there > 0, 1.0, -(obs + 0.5).abs())
        return Step(
            next_obs=there.expand(*lead, 1),
            reward=reward[..., 0].expand(lead),
            terminated=torch.zeros(lead, dtype=torch.bool),
            uncertainty=there[..., 0].relu(),
        )


@pytest.fixture(scope="module")
def left_half():
    """Random steps in [-1, 0], whose reward is best at -0.5."""
    generator = torch.Generator().manual_seed(0)
    obs, there = torch.rand(2, ROWS, 1, generator=generator) - 1
    action = ((there - obs) * 5).clamp(-1, 1)
    return build(
        name="corridor",
        spec=Spec(env_id=None, obs_dim=1, action_dim=1, action_low=(-1.0,), action_high=(1.0,)),
        obs=obs.numpy(),
        action=action.numpy(),
        reward=-(obs[:, 0] + 0.5).abs().numpy(),
        terminated=torch.zeros(ROWS, dtype=torch.bool).numpy(),
        truncated=(torch.arange(ROWS) % 20 == 19).numpy(),
        next_obs=(obs + action / 5).numpy(),
        reference=None,
        origin={},
        clip_actions=False,
    )


def places(data, judge, make_sac):
    """Where the policy is after walking for 20 steps from -0.5, `[S]`."""
    torch.manual_seed(0)
    agent = make_sac(data.spec, seeds=2, initial_temperature=0.05, tau=0.02)
    source = BranchedRollouts(
        model=Corridor(),
        transition_filter=judge,
        horizon=5,
        starts=100,
        every=50,
        retain=4,
        actions="policy",
    )
    mixture, sources = mix(data, seeds=2, batch_size=64, real_rows=16, source=source)
    run = Run(data, agent, mixture, sources, 800, Periods(log=100, evaluate=0, checkpoint=0))
    run.train(None, Console(quiet=True))
    obs = torch.full((2, 1, 1), -0.5)
    for _ in range(20):
        obs = (obs + agent.act(obs, deterministic=True) / 5).clamp(-1, 1)
    return obs.flatten()


@pytest.mark.parametrize("absorbing", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_agent_stays_where_the_data_are_though_the_model_promises_more(
    left_half, make_sac, absorbing
):
    # One that ends the episode is paid once: as low as the filter's own warning asks for.
    floor = "auto" if absorbing else -4.0
    halt = PessimisticHalt(quantile=1.0, limit=None, scale=1.0, floor=floor, absorbing=absorbing)
    assert (places(left_half, KeepAll(), make_sac) > 0.1).all()
    assert (places(left_half, halt, make_sac) <= 0.0).all()


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "changes", [(), ("online=collect", "online.every=2", "online.refit_every=10")], ids=str
)
@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_limit(tmp_path, changes):
    """The checkpoint has no limit: it is measured again, of the model as it was last fitted."""
    whole = reverie.make(*SMALL, *changes)
    whole.train(tmp_path / "whole")
    killed = reverie.make(*SMALL, *changes)
    advance = killed.agent.update

    def update(batch, left=[27]):  # noqa: B006
        left[0] -= 1
        if not left[0]:
            raise Killed
        return advance(batch)

    killed.agent.update = update
    with pytest.raises(Killed):
        killed.train(tmp_path / "killed")
    resumed = reverie.make(*SMALL, *changes)
    console = Console(file=io.StringIO(), width=300)
    resumed.train(tmp_path / "killed", console)
    told = console.file.getvalue()
    assert "resuming" in told and told.count("filter: halts at") == 1
    assert same(whole.agent.state_dict(), resumed.agent.state_dict())
    limits = [run.sources["synthetic"].filter.limit for run in (whole, resumed)]
    assert torch.equal(*limits)
    texts = [(tmp_path / name / METRICS).read_text() for name in ("whole", "killed")]
    assert texts[0] == texts[1] and "synthetic/beyond_limit" in texts[0]
    found = {line.split(",")[3] for line in texts[0].splitlines() if "synthetic/limit" in line}
    assert (len(found) > 2) == bool(changes)  # a refit is another model, with another limit
