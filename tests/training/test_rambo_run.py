"""Runs whose world model is trained against the policy: what it does, killed and resumed."""

import hashlib

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
from reverie.world_models.adversary import Adversary, mixture_log_prob
from reverie.world_models.filters import KeepAll
from reverie.world_models.fitting import rows_of
from reverie.world_models.sources import BranchedRollouts
from tests.world_models.conftest import ensemble

SMALL = (
    "algorithm=rambo",
    "dataset.episodes=6",
    "seeds=2",
    "updates=40",
    "batch_size=16",
    "agent.hidden=[8]",
    "world_model.hidden=[8]",
    "world_model.weight_decay=[0.0,0.0]",
    "world_model.max_epochs=2",
    "model_updates.every=10",
    "model_updates.steps=4",
    "model_updates.horizon=2",
    "model_updates.batch=16",
    "pretraining.epochs=1",
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


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def digests(folder):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.pt")}


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_a_phase_ends_with_the_same_bits(tmp_path):
    cache = f"cache={tmp_path / 'cache'}"
    whole = reverie.make(*SMALL, cache)
    whole.train(tmp_path / "whole")
    fitted = digests(tmp_path / "cache")
    assert len(fitted) == 1
    killed = reverie.make(*SMALL, cache)
    advance = killed.model_updates.update

    def update(*arguments, left=[11]):  # noqa: B006, the third of four in the third phase
        left[0] -= 1
        if not left[0]:
            raise Killed
        return advance(*arguments)

    killed.model_updates.update = update
    with pytest.raises(Killed):
        killed.train(tmp_path / "killed")
    saved = torch.load(tmp_path / "killed" / "checkpoint.pt", weights_only=True)
    assert saved["update"] == 30 and saved["model_updates"]["steps"].unique().tolist() == [8.0]
    resumed = reverie.make(*SMALL, cache)
    resumed.train(tmp_path / "killed")
    assert same(whole.agent.state_dict(), resumed.agent.state_dict())
    models = [run.model_updates.model.state_dict() for run in (whole, resumed)]
    assert same(*models)
    texts = [(tmp_path / name / METRICS).read_text() for name in ("whole", "killed")]
    assert texts[0] == texts[1] and "world_model/adversarial_loss" in texts[0]

    # What was fitted stays where it was; the model that changed is in the checkpoint alone.
    assert digests(tmp_path / "cache") == fitted
    first = torch.load(tmp_path / "whole" / "world_model.pt", weights_only=True)["state"]
    assert not same(first, models[0])
    assert torch.equal(first["elite_members"], models[0]["elite_members"])
    loaded = reverie.load(tmp_path / "whole").load_part("world_model").state_dict()
    assert same(loaded, models[0])


def test_a_weight_of_0_leaves_the_model_as_it_was_fitted(capsys):
    console = Console(width=200, markup=False)
    run = reverie.make(*SMALL, "model_updates.weight=0.0", console=console)
    assert run.model_updates is None and run.pretraining is not None
    assert "the world model stays as it is fitted" in capsys.readouterr().out
    assert reverie.make(*SMALL).model_updates.every == 10


def test_a_run_too_short_for_the_adversary_says_so(capsys):
    console = Console(width=80, markup=False)
    reverie.make(*SMALL, "model_updates.every=39", console=console)
    assert "stays as it is fitted" not in capsys.readouterr().out
    reverie.make(*SMALL, "model_updates.every=40", console=console)
    assert "for model_updates.every=40 is not below updates=40" in capsys.readouterr().out


@pytest.fixture(scope="module")
def left_half():
    """Gambles of which only those with actions below 0 are recorded, and pay less than nothing."""
    generator = torch.Generator().manual_seed(0)
    rows = 600
    obs, there = torch.randn(2, rows, 1, generator=generator)
    action = -torch.rand(rows, 1, generator=generator)
    noise = 0.1 * torch.randn(rows, generator=generator)
    return build(
        name="arms",
        spec=Spec(env_id=None, obs_dim=1, action_dim=1, action_low=(-1.0,), action_high=(1.0,)),
        obs=obs.numpy(),
        action=action.numpy(),
        reward=(action[:, 0] + noise).numpy(),
        terminated=torch.zeros(rows, dtype=torch.bool).numpy(),
        truncated=(torch.arange(rows) % 20 == 19).numpy(),
        next_obs=there.numpy(),
        reference=None,
        origin={},
        clip_actions=False,
    )


def arm(data, weight, make_sac):
    """The action that is chosen in the end, `[S]`."""
    torch.manual_seed(0)
    agent = make_sac(data.spec, seeds=2, initial_temperature=0.05, tau=0.02, discount=0.0)
    model = ensemble(spec=data.spec, seeds=2, hidden=[16, 16], max_epochs=40, patience=20)
    model.fit(data)
    source = BranchedRollouts(
        model=model,
        transition_filter=KeepAll(),
        horizon=1,
        starts=200,
        every=50,
        retain=2,
        actions="policy",
    )
    mixture, sources = mix(data, seeds=2, batch_size=64, real_rows=16, source=source)
    adversary = Adversary(
        model=model,
        data=data,
        policy=agent.act,
        moments=agent.moments,
        critics=agent.values,
        discount=agent.discount,
        weight=weight,
        every=50,
        steps=50,
        batch=64,
        horizon=1,
        learning_rate=3e-3,
    )
    periods = Periods(log=100, evaluate=0, checkpoint=0)
    run = Run(data, agent, mixture, sources, 400, periods)
    run.model_updates = adversary if adversary.every else None
    run.train(None, Console(quiet=True))
    return agent.act(torch.zeros(2, 1, 1), deterministic=True).flatten()


@pytest.mark.slow
def test_the_arm_that_nobody_pulled_is_shunned_where_the_adversary_is_strong(left_half, make_sac):
    risky, safe = (arm(left_half, weight, make_sac) for weight in (0.0, 1.0))
    assert (risky > 0.5).all() and (safe < 0.2).all(), (risky, safe)


@pytest.mark.slow
def test_the_preset_weight_leaves_the_model_a_model_of_the_data():
    """Nats per column of what no fit saw, the density being the elites' in equal parts."""
    found = {}
    for weight in (3e-4, 1e3):
        run = reverie.make(
            *SMALL,
            *("dataset.episodes=30", "seeds=1", "updates=100", "batch_size=64"),
            *("world_model.hidden=[32]", "world_model.max_epochs=40"),
            *("world_model.learning_rate=1e-3", "world_model.holdout_fraction=0.2"),
            *("model_updates.every=50", "model_updates.steps=200", "model_updates.batch=64"),
            f"model_updates.weight={weight}",
        )
        before, change = [], run.model_updates.change

        def measured(run=run, before=before, change=change):
            if not before:
                before.append(held_out_loss(run))
            return change()

        run.model_updates.change = measured
        run.train(console=Console(quiet=True))
        found[weight] = held_out_loss(run) - before[0]
    assert found[3e-4] < 0.5 < found[1e3], found


def held_out_loss(run):
    """Mean of -log p of the recorded changes and rewards that the fit has left out."""
    model, rows = run.model_updates.ensemble, run.data.transitions
    rows = rows[rows_of(run.data, model.held_out(run.data))]
    target = torch.cat([rows.next_obs - rows.obs, rows.reward.unsqueeze(-1)], -1)[None, None]
    inputs = torch.cat([rows.obs, rows.action], -1)[None, None]
    with torch.no_grad():
        mean, log_variance = model.gaussians(inputs)
        elite = torch.zeros(1, model.members).scatter(1, model.elite_members, 1.0) > 0
        of_learned = model.gaussians.of_learned
        log_prob = mixture_log_prob(*map(of_learned, (mean, log_variance, target)), elite)
    return -log_prob.mean().item() / target.shape[-1]
