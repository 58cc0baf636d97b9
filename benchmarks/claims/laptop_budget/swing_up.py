"""Is MOPO above ReBRAC on the swing-up, as shipped? The line that four seeds left undecided.

`laptop_budget` compares the intervals of 195 ± 1.9 and 192 ± 2.4, which overlap. The plan of this
run, written before it:

- Why it is undecided: for want of seeds, and because the intervals of two means were compared in
  the place of that of their difference. The differences of the four recorded seeds are 5.8, 3.7,
  2.0 and 0.9 (mean 3.1, deviation 2.1); 200 is the most that can be earned.
- Seeds: blocks of four replicas, as recorded, of seeds 4 to 7 and 8 to 11; where eight seeds do not
  decide, 12 to 15 as well. Nothing was tuned on them; data, numbers and length are as recorded;
  some 37 core-minutes a block.
- Rule: the exact interval of `sequential` of the differences after 8 and after 12 seeds; an error
  of 5 % in all. A seed's return is the mean of its last two evaluations, as in `laptop_budget`.
- Power, simulated with normal differences, 400 times: 0.99 at the recorded 1.5 deviations,
  0.78 at one, 0.27 at half of one.
- So far, after eight seeds: undecided, 1.2 [-1.5, 3.6], six of them positive; the mean difference
  is less than half of that of the first four. `--continue` adds the last block. ReBRAC is there
  after 5,000 updates, MOPO after 10,000. With the fits of models a block took 52 core-minutes.
- The recorded lines stay as they are. A gap of three points near the most that can be earned says
  who is more reliable at the end of a run, not that a model is needed: both learn the swing-up.
"""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from reverie.benchmarks.claims.comparison import Record, returns_of
from reverie.benchmarks.claims.experiment import run_all
from reverie.benchmarks.claims.growing import Records, add_continue, core_seconds, read_known
from reverie.benchmarks.claims.laptop_budget.tasks import TASKS
from reverie.benchmarks.claims.report import (
    RESULTS,
    Claim,
    Findings,
    carry_out,
    draw_range,
    parser,
)
from reverie.benchmarks.claims.sequential import Decision, Plan
from reverie.benchmarks.claims.shipped import QUICK, Budget, train_or_find
from reverie.mistake import Mistake
from reverie.training.launch.mistakes import one_line_errors

NAME = "laptop_swing_up"
TITLE = "As shipped, at the laptop budget: MOPO and ReBRAC on the swing-up, new seeds"
TASK, RIVALS = "cartpole", ("rebrac", "mopo")
BLOCKS = (4, 8, 12)
"""First seeds of the blocks of replicas."""
PLAN = Plan((8, 12), error=0.05)


def measure(
    budget: Budget, blocks: Sequence[int], folder: Path, known: Records, *, judge: bool
) -> Findings:
    """Train block after block, until the plan is content.

    Args:
        blocks: first seeds.
        folder: of the records, from which a stopped command goes on.
        known: records by block and method, which are taken where their settings are those of today.
    """
    records: dict[str, list[Record]] = {method: [] for method in RIVALS}
    for first in blocks:
        if records["mopo"] and decide(records).final:
            break
        earlier = known.get(str(first), {})
        found = run_all(
            {
                method: partial(_train, method, first, budget, folder, earlier.get(method))
                for method in RIVALS
            }
        )
        for method, record in found.items():
            records[method].append(record)
    by_block = {
        str(first): {method: own[at] for method, own in records.items()}
        for at, first in enumerate(blocks[: len(records["mopo"])])
    }
    return Findings(
        [claim(records, judged=judge)],
        {
            "plan": vars(PLAN),
            "budget": vars(budget),
            "records": by_block,
            "seconds": core_seconds(by_block),
        },
        {NAME: plot(records)},
    )


def _train(
    method: str, first: int, budget: Budget, folder: Path, known: Record | None
) -> dict[str, Any]:
    found = train_or_find(
        *(method, TASK, TASKS[TASK], budget, folder, known), train=True, seed=first, keep=True
    )
    assert found is not None
    return found


def returns(records: Sequence[Record]) -> list[float]:
    """One a seed, block after block.

    Raises:
        Mistake: a training stopped, so that its seeds have none.
    """
    values: list[float] = []
    for record in records:
        own = returns_of(record)
        if own is None:
            raise Mistake(
                f"{record['method']} from seed {record['seed']} stopped ({record['stopped']}), "
                "which the plan does not know; look at its run before anything is decided"
            )
        values += own.values
    return values


def decide(records: Mapping[str, Sequence[Record]]) -> Decision:
    """By the plan, as far as the blocks reach."""
    free, based = (returns(records[method]) for method in RIVALS)
    return PLAN.decide([own - other for own, other in zip(based, free, strict=True)])


def claim(records: Mapping[str, Sequence[Record]], *, judged: bool) -> Claim:
    """The one line."""
    decision = decide(records)
    free, based = (
        ", ".join(f"{value:.4g}" for value in returns(records[method])) for method in RIVALS
    )
    more = "" if decision.final else f"; {PLAN.looks[-1]} seeds are planned"
    return Claim(
        "cart-pole swing-up: MOPO is above ReBRAC, both as shipped",
        "higher return, exact interval of the paired differences above 0",
        f"{decision.mean:.3g} [{decision.low:.3g}, {decision.high:.3g}]: "
        f"{based} against {free}{more}"
        if decision.seeds
        else f"too few seeds to say: {based} against {free}",
        decision.better if judged else None,
        "ours",
    )


def plot(records: Mapping[str, Sequence[Record]]) -> Figure:
    """Learning curves in the true environment."""
    figure = Figure(figsize=(6, 3.8), layout="constrained")
    ax = figure.subplots()
    for at, (method, own) in enumerate(records.items()):
        every = np.concatenate([record["returns"] for record in own])
        draw_range(ax, own[0]["updates"], every, label=method, color=f"C{at}")
    ax.set(
        xlabel="updates",
        ylabel="return in the true environment",
        title="cart-pole swing-up: mean and range over seeds",
    )
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    return figure


def main() -> int:
    """Be the command; returns the exit status, 1 where the claim fails."""
    options = parser("laptop_budget.swing_up", __doc__)
    options.add_argument(
        "--records",
        type=Path,
        default=Path("runs") / NAME,
        help="folder of what is finished, from which a stopped command goes on",
    )
    options.add_argument(
        "--blocks",
        type=int,
        choices=range(1, len(BLOCKS) + 1),
        default=len(BLOCKS),
        help="of four seeds, at most; fewer than all leave the plan open where they do not decide",
    )
    add_continue(options)
    arguments = options.parse_args()
    quick = arguments.quick
    budget, blocks = (QUICK, BLOCKS[:1]) if quick else (Budget(), BLOCKS[: arguments.blocks])
    known = read_known(RESULTS / f"{NAME}.json") if arguments.go_on else {}

    def found() -> Findings:
        return measure(budget, blocks, arguments.records, known, judge=not quick)

    return carry_out(NAME, TITLE, arguments, found)


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
