"""SS-ORL, arXiv:2210.06518: trajectories without actions, filled in by an inverse model.

Actions of nine steps in ten are hidden. What the inverse model proposes is compared with them, with
the difference to the next state among its inputs and with the next state itself. Then TD3+BC learns
from the tenth that has actions, from all with proposals, and from all as they were recorded.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor

import reverie
from reverie import datasets
from reverie.benchmarks.claims.experiment import run_all
from reverie.benchmarks.claims.judging import estimate, judge_order
from reverie.benchmarks.claims.report import AFTER, Claim, Findings
from reverie.benchmarks.claims.second_ring.scoring import score
from reverie.datasets.dataset import Dataset
from reverie.datasets.transforms import fill_actions, hide_actions
from reverie.training.launch.options import build_option
from reverie.world_models.inverse import InverseDynamics, r2

TITLE = "Missing actions, SS-ORL: mean ± 95 % interval"
DATASETS = {"pendulum": "builtin/pendulum-mixed", "swing-up": "builtin/cartpole-swingup"}
LEAST = {"pendulum": 0.99, "swing-up": 0.76}
"""R2 of proposals where the plant does not hide the action, as measured when this was planned."""
SPEED, LIMIT = 2, 8.0
"""Of the pendulum, the observation that its physics clips, and where: no torque shows there."""
SHARE = 0.1
DIFFERENCE, STATE = "difference", "next state"
STEPS, QUICK_STEPS = 2_000, 100

SEEDS, UPDATES, EPISODES = 5, 3_000, 10
QUICK_UPDATES, QUICK_EPISODES = 60, 2
TENTH, FILLED, TRUE = "a tenth", "a tenth and proposals", "all recorded"
ARMS = (TENTH, FILLED, TRUE)
NEARLY = 0.9
RUN: dict[str, Any] = {
    "seeds": SEEDS,
    "batch_size": 256,
    "agent.hidden": [128, 128],
    "agent.actor_learning_rate": 1.0e-3,
    "agent.critic_learning_rate": 1.0e-3,
    "agent.discount": 0.97,
    "agent.tau": 0.01,
    "probe_starts": 0,
    "verdict.starts": 0,
    "evaluate.every": 0,
    "checkpoint_every": 0,
    "compile": False,
    "threads": 1,
}
"""Of `algorithm=td3_bc`; chosen before anything was run."""


class FedNextState(InverseDynamics):
    """What the authors feed: the next state and not the difference to it."""

    def _standardise(self, data: Dataset) -> None:
        super()._standardise(data)
        rows, width = data.transitions, self.spec.obs_dim
        self.obs_mean[-width:] = rows.next_obs.mean(0)
        self.obs_std[-width:] = rows.next_obs.std(0).clamp_min(1e-6)

    def _inputs(self, data: Dataset, rows: Tensor) -> Tensor:
        inputs, width = super()._inputs(data, rows), self.spec.obs_dim
        return torch.cat([inputs[:, :-width], data.transitions.next_obs[rows]], 1)


def measure(quick: bool) -> Findings:
    """Proposals against what was hidden, then what policies make of them."""
    names = list(DATASETS)[:1] if quick else list(DATASETS)
    kinds = (DIFFERENCE,) if quick else (DIFFERENCE, STATE)
    jobs: dict[str, Any] = {f"policy/{arm}": partial(train, arm, quick) for arm in ARMS}
    jobs |= {
        f"{name}/{kind}": partial(propose, name, kind, quick) for name in names for kind in kinds
    }
    found = run_all(jobs)
    policies = {arm: found.pop(f"policy/{arm}") for arm in ARMS}
    return Findings(
        [
            *claim_proposals(found, names, judge=not quick),
            *claim_policies(policies, judge=not quick),
        ],
        {"proposals": found, "policies": policies, "run": RUN, "updates": UPDATES},
        {} if quick else {"returns": plot(policies)},
    )


def propose(name: str, kind: str, quick: bool) -> dict[str, Any]:
    """R2 of proposals for hidden actions, of all and of those that are sure."""
    data = datasets.load(DATASETS[name])
    generator = torch.Generator().manual_seed(1)
    hidden = torch.rand(len(data), generator=generator) > SHARE
    lacking = hide_actions(data, hidden)
    model = inverse_model(data, FedNextState if kind == STATE else InverseDynamics, quick)
    described = model.fit(lacking)
    proposed, unsure = model.propose(lacking, hidden.nonzero().flatten())
    true = data.transitions.action[hidden]
    shows = torch.ones(len(true), dtype=torch.bool)
    if name == "pendulum":
        shows = data.transitions.next_obs[hidden][:, SPEED].abs() < LIMIT - 1e-3
    return {
        "shown": r2(proposed[shows], true[shows])[0],
        "hidden_by_the_plant": float((~shows).float().mean()),
        "unsure_of_those": float(unsure[~shows].float().sum() / (~shows).sum().clamp(min=1)),
        "all": r2(proposed, true)[0],
        "sure": r2(proposed[~unsure], true[~unsure])[0],
        "unsure": float(unsure.float().mean()),
        "held_out": described["r2"][0],
        "known": described["known_rows"],
    }


def inverse_model(data: Dataset, kind: type[InverseDynamics], quick: bool) -> InverseDynamics:
    """`inverse_model=ensemble`, fed as asked for."""
    changes = {
        "_target_": f"{kind.__module__}.{kind.__qualname__}",
        "steps": QUICK_STEPS if quick else STEPS,
    }
    model: InverseDynamics = build_option(
        "inverse_model", "ensemble", changes=changes, spec=data.spec, seeds=1, seed=0
    )
    return model


def train(arm: str, quick: bool) -> dict[str, Any]:
    """TD3+BC on one of the datasets; scores of its seeds."""
    data = make_data(arm, quick)
    made = reverie.make(
        "algorithm=td3_bc",
        dataset=data,
        console=Console(quiet=True),
        **RUN,
        updates=QUICK_UPDATES if quick else UPDATES,
    )
    made.train(console=Console(quiet=True))
    episodes = QUICK_EPISODES if quick else EPISODES
    inferred = data.inferred
    return {
        "score": score(made.policy, data, seeds=SEEDS, episodes=episodes),
        "rows": len(data),
        "inferred": None if inferred is None else inferred.describe(),
        "seconds": made.seconds,
    }


def make_data(arm: str, quick: bool) -> Dataset:
    """Pendulum-mixed: a tenth of its episodes, or all, whose other actions are proposals or true.

    The tenth is drawn from the poorer half, as the authors do.
    """
    whole = datasets.load(DATASETS["pendulum"])
    if arm == TRUE:
        return whole
    poorer = whole.returns.argsort(stable=True)[: len(whole.returns) // 2]
    drawn = torch.randperm(len(poorer), generator=torch.Generator().manual_seed(0))
    kept = torch.zeros(len(whole.returns), dtype=torch.bool)
    kept[poorer[drawn[: int(SHARE * len(whole.returns))]]] = True
    rows, lengths = kept.repeat_interleave(whole.episode_lengths), whole.episode_lengths[kept]
    if arm == TENTH:
        return replace(
            whole,
            transitions=whole.transitions.map(lambda column: column[rows]),
            truncated=whole.truncated[rows],
            valid_next=whole.valid_next[rows],
            episode_starts=lengths.cumsum(0) - lengths,
        )
    lacking = hide_actions(whole, ~rows)
    model = inverse_model(whole, InverseDynamics, quick)
    described = model.fit(lacking)
    return fill_actions(
        lacking, *model.propose(lacking, (~rows).nonzero().flatten()), described["r2"]
    )


def claim_proposals(
    found: Mapping[str, Mapping[str, Any]], names: list[str], *, judge: bool
) -> list[Claim]:
    """How much of the hidden actions is found, and what the difference is worth."""
    claims = []
    for name in names:
        own = found[f"{name}/{DIFFERENCE}"]
        claims.append(
            Claim(
                f"{name}, {SHARE:.0%} of the steps with actions, fed with the difference: R2 of "
                "the proposals for the others, where the plant does not hide the action",
                f"{LEAST[name]:g} or more",
                f"{own['shown']:.4f}; {own['all']:.4f} of all, of which the plant hides "
                f"{own['hidden_by_the_plant']:.1%}; {own['sure']:.4f} of those that are sure, "
                f"{own['unsure']:.1%} are not",
                own["shown"] >= LEAST[name] if judge else None,
                f"ours, narrowed {AFTER}" if name == "pendulum" else "ours",
            )
        )
        if (other := found.get(f"{name}/{STATE}")) is not None:
            claims.append(
                Claim(
                    f"{name}: R2 of all proposals, fed with the difference and with the next state",
                    "the difference is no worse",
                    f"{own['all']:.3f} and {other['all']:.3f}",
                    own["all"] >= other["all"] if judge else None,
                    "ours",
                )
            )
    return claims


def claim_policies(found: Mapping[str, Mapping[str, Any]], *, judge: bool) -> list[Claim]:
    """Proposals help, and nearly as much as recorded actions."""
    scores = {arm: estimate(found[arm]["score"]) for arm in ARMS}
    told = ", ".join(f"{arm} {scores[arm]}" for arm in ARMS)
    return [
        Claim(
            f"pendulum, TD3+BC: {FILLED} above {TENTH} alone",
            "above, intervals apart",
            told,
            judge_order(scores[TENTH], scores[FILLED]) if judge else None,
            f"paper, seeds added {AFTER}",
        ),
        Claim(
            f"pendulum, TD3+BC: {FILLED} nearly as good as {TRUE}",
            f"{NEARLY:g} of its score or more",
            f"{scores[FILLED].mean / scores[TRUE].mean:.2f} of it",
            scores[FILLED].mean >= NEARLY * scores[TRUE].mean if judge else None,
        ),
    ]


def plot(found: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Scores of the arms, a dot a seed."""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    ax = figure.subplots()
    for place, arm in enumerate(ARMS):
        scores = found[arm]["score"]
        ax.bar(place, np.mean(scores), color=f"C{place}", alpha=0.5)
        ax.plot([place] * len(scores), scores, "k.")
    ax.set_xticks(range(len(ARMS)), [arm.replace(" and", "\nand") for arm in ARMS])
    ax.set(ylabel="score", title="TD3+BC, pendulum-mixed")
    return figure
