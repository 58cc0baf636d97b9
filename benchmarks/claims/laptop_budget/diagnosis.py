"""What decides how MOPO ends at a small budget: one setting at a time, in both directions.

MOPO with the sizes of `budget=laptop` and the rates of its paper, with each of the settings of
MOPO+BC added alone, and MOPO+BC with each of them taken away alone; then what both share. Every arm
has the same seeds and 6,000 updates, fewer than that budget has. A setting matters where the
interval of the difference leaves 0 out.
Arms, seeds and updates were chosen before any was run; MOPO+BC's numbers were chosen on the Hopper
task with other seeds.

TD3+BC's arms came later, on seeds of their own: at its paper's rates, and with other values of two
that decide how fast it learns. Those values were tried before on Hopper, HalfCheetah and the
swing-up. What came out is why `budget=laptop` has rates of its own now, which no arm here has.
With these rates MOPO+BC has other numbers; its arms keep those that it had.

`--continue` adds to the recorded table: `--only ... --datasets ... --continue`.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from reverie.benchmarks.claims.comparison import (
    Comparison,
    Record,
    choose,
    digest,
    finished,
    options,
    print_table,
    record_path,
    train_or_read,
)
from reverie.benchmarks.claims.growing import (
    Records,
    add_continue,
    core_seconds,
    gather,
    read_known,
    sort_records,
)
from reverie.benchmarks.claims.judging import Estimate, estimate_difference
from reverie.benchmarks.claims.laptop_budget.tasks import USUAL
from reverie.benchmarks.claims.report import RESULTS, Claim, Findings, carry_out
from reverie.benchmarks.claims.shipped import Budget, build, run_folder
from reverie.benchmarks.speed.hardware import describe
from reverie.mistake import Mistake
from reverie.training.launch.hyperparameters import compose_run
from reverie.training.launch.mistakes import one_line_errors

NAME = "laptop_diagnosis"
TITLE = "MOPO and TD3+BC at a small budget: differences of returns ± 95 % interval"
SEED = 2000
PLAIN, ANCHORED, FREE = "mopo", "mopo_bc", "td3_bc"
NAMES = {PLAIN: "MOPO", ANCHORED: "MOPO+BC", FREE: "TD3+BC"}
COLOURS = {PLAIN: "C1", ANCHORED: "C0", FREE: "C2"}


FORMER = {"agent": {"imitation": 5.0}, "filter": {"penalty": 0.25}}
"""What MOPO+BC had when its arms were trained; today's numbers came out of later trials."""


@dataclass(frozen=True)
class Factor:
    """A setting in which MOPO+BC differs from MOPO.

    Attributes:
        says: what it is, in words.
        mopo, mopo_bc: its value in each of the two.
    """

    says: str
    mopo: Mapping[str, Any]
    mopo_bc: Mapping[str, Any]


@dataclass(frozen=True)
class Arm:
    """A preset with changed settings.

    Attributes:
        of: the preset, which it is compared with.
        changes: none for the preset itself.
        seed: the first of its seeds.
    """

    of: str
    says: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    seed: int = SEED


FACTORS = {
    "anchor": Factor(
        "a squared distance to recorded actions in the actor's loss, weight 5",
        {"agent": {"imitation": 0.0}},
        {"agent": {"imitation": 5.0}},
    ),
    "real": Factor(
        "half of every batch is recorded, not 5 %", {"real_ratio": 0.05}, {"real_ratio": 0.5}
    ),
    "temperature": Factor(
        "the temperature starts at 0.1, not 1",
        {"agent": {"initial_temperature": 1.0}},
        {"agent": {"initial_temperature": 0.1}},
    ),
    "rate": Factor(
        "the actor learns at 3e-4 throughout, not from 1e-4 to 0",
        {"agent": {"actor_learning_rate": 1e-4, "actor_cosine": True}},
        {"agent": {"actor_learning_rate": 3e-4, "actor_cosine": False}},
    ),
    "norm": Factor(
        "layer normalisation in the critics",
        {"agent": {"critic_layer_norm": False}},
        {"agent": {"critic_layer_norm": True}},
    ),
    "penalty": Factor(
        "a penalty of 0.25 in units of the data, not 1 in those of the reward",
        {"filter": {"penalty": 1.0, "unit": "raw"}},
        {"filter": {"penalty": 0.25, "unit": "data"}},
    ),
}
SHARED = {
    "no_penalty": Arm(ANCHORED, "no penalty", {"filter": {"penalty": 0.0}}),
    "horizon_1": Arm(ANCHORED, "rollouts of 1 step, not 5", {"source": {"horizon": 1}}),
    "horizon_10": Arm(ANCHORED, "rollouts of 10 steps, not 5", {"source": {"horizon": 10}}),
    "refresh": Arm(
        ANCHORED, "new rollouts every 1,000 updates, not 250", {"source": {"every": 1000}}
    ),
    "critics": Arm(ANCHORED, "10 critics, not 2", {"agent": {"critics": 10}}),
    "short_fit": Arm(
        ANCHORED, "a model that waits 5 epochs only", {"world_model": {"patience_updates": 0}}
    ),
    "batch": Arm(ANCHORED, "batches of 512, not 256", {"batch_size": 512}),
}
RATES = {"actor_learning_rate": 1e-3, "critic_learning_rate": 1e-3}
TARGETS = {"tau": 0.02}
UNTRIED = 3000
"""Seeds of TD3+BC's arms, on which its rates were not tried before."""
FASTER = {
    "td3_rates": Arm(FREE, "networks that learn at 1e-3, not 3e-4", {"agent": RATES}, UNTRIED),
    "td3_targets": Arm(FREE, "targets that follow at 0.02, not 0.005", {"agent": TARGETS}, UNTRIED),
    "td3_both": Arm(FREE, "both of these", {"agent": RATES | TARGETS}, UNTRIED),
}
ARMS = {
    PLAIN: Arm(PLAIN, NAMES[PLAIN]),
    ANCHORED: Arm(ANCHORED, NAMES[ANCHORED]),
    **{f"add_{name}": Arm(PLAIN, each.says, each.mopo_bc) for name, each in FACTORS.items()},
    **{f"drop_{name}": Arm(ANCHORED, each.says, each.mopo) for name, each in FACTORS.items()},
    **SHARED,
    FREE: Arm(FREE, NAMES[FREE], seed=UNTRIED),
    **FASTER,
}
BUDGET = Budget(seeds=4, updates=6_000, evaluate=2_000, episodes=10)
QUICK = Budget(seeds=2, updates=60, evaluate=30, episodes=2, epochs=1)
COMPARISON = Comparison(
    name=NAME,
    methods=tuple(ARMS),
    tasks=USUAL,
    usual=tuple(USUAL),
    budget=BUDGET,
    quick=((PLAIN, ANCHORED, "add_anchor", "drop_anchor"), ("pendulum",), QUICK),
)


def measure(
    asked: Sequence[tuple[str, str]], budget: Budget, folder: Path, known: Records | None
) -> Findings:
    """Train what no record is of, and compare every arm with the preset that it changes.

    Args:
        asked: tasks and arms.
        known: of the recorded table, which is shown as well; None for only what is asked for.
    """
    others = [] if known is None else [(task, arm) for task in USUAL for arm in ARMS]
    find = partial(find_or_train, budget=budget, folder=folder)
    records = sort_records(gather(find, asked, others, known or {}), USUAL, ARMS)
    tables = [tabulate(task, own) for task, own in records.items()]
    for table in tables:
        print_table(table)
    return Findings(
        [claim for task, own in records.items() for claim in claim_all(task, own)],
        {
            "budget": asdict(budget),
            "records": records,
            "tables": tables,
            "seconds": core_seconds(records),
        },
        {NAME: draw(records)},
    )


def find_or_train(
    task: str, arm: str, known: Record | None, *, train: bool, budget: Budget, folder: Path
) -> Record | None:
    """The record of an arm on a task, see `growing.gather`."""
    chosen = ARMS[arm]
    changes = as_diagnosed(chosen.of, chosen.changes)
    run = build(chosen.of, USUAL[task], budget, chosen.seed, changes)
    own = digest(run)
    if known is not None and known.get("digest") == own:
        return dict(known)
    if not (train or record_path(folder, task, arm, own).is_file()):
        return None
    hardware = describe(run.device)
    about = {"digest": own, "date": date.today().isoformat()}
    about["cpu"] = hardware["gpu"] or hardware["cpu"]
    return train_or_read(run, arm, task, folder, about, run_folder(folder, task, arm, own))


def as_diagnosed(preset: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes of a preset as it was when the arms were chosen: its paper's rates in the place of a
    budget's, and MOPO+BC's former numbers."""
    agent = compose_run([f"algorithm={preset}", "budget=paper", "~tuned"]).agent
    rates = {key: agent[key] for key in agent if key.endswith("learning_rate") or key == "tau"}
    former = FORMER if preset == ANCHORED else {}
    own = {**changes, **{key: former[key] | changes.get(key, {}) for key in former}}
    return {**own, "agent": rates | own.get("agent", {})}


def differences(records: Mapping[str, Record]) -> dict[str, Estimate]:
    """By arm, its return less that of the preset it changes, seed by seed."""
    done = finished(records)
    return {
        arm: estimate_difference(own.values, done[ARMS[arm].of].values)
        for arm, own in done.items()
        if arm != ARMS[arm].of and ARMS[arm].of in done
    }


def matters(difference: Estimate) -> str:
    """What its interval says of a setting."""
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "undecided"


def tabulate(task: str, records: Mapping[str, Record]) -> dict[str, Any]:
    """Every arm with its return, its difference, and what critics and alarms said."""
    done, gaps = finished(records), differences(records)
    rows = []
    for arm, own in done.items():
        gap = gaps.get(arm)
        told = ["-", "-"] if gap is None else [str(gap), matters(gap)]
        rows.append([arm, ARMS[arm].says, str(own), *told, str(len(records[arm]["alarms"]))])
    rows += [
        [arm, ARMS[arm].says, "stopped", record["stopped"], "-", "-"]
        for arm, record in records.items()
        if arm not in done
    ]
    caption = (
        f"{task}: add_... is MOPO with one setting of MOPO+BC, drop_... MOPO+BC with one of "
        "MOPO's, td3_... TD3+BC with another rate, others are MOPO+BC with another change"
    )
    header = ["arm", "setting", "return", "difference", "", "alarms"]
    return {"caption": caption, "header": header, "rows": rows}


def claim_all(task: str, records: Mapping[str, Record]) -> list[Claim]:
    """What each setting does; nothing was claimed before, so nothing can fail."""
    gaps = differences(records)
    claims = []
    for name, factor in FACTORS.items():
        told = [
            f"{how} {gaps[arm]} ({matters(gaps[arm])})"
            for how, arm in (
                ("added to MOPO", f"add_{name}"),
                ("MOPO+BC without it", f"drop_{name}"),
            )
            if arm in gaps
        ]
        if told:
            claims.append(Claim(f"{task}: {factor.says}", "-", "; ".join(told), None, "ours"))
    claims += [
        Claim(
            f"{task}: {NAMES[arm.of]} with {arm.says}",
            "-",
            f"{gaps[name]} ({matters(gaps[name])})",
            None,
            "ours",
        )
        for name, arm in (SHARED | FASTER).items()
        if name in gaps
    ]
    done = finished(records)
    if PLAIN in done and ANCHORED in done:
        gap = estimate_difference(done[ANCHORED].values, done[PLAIN].values)
        claims.insert(
            0,
            Claim(
                f"{task}: all of MOPO+BC's settings", "-", f"{gap} ({matters(gap)})", None, "ours"
            ),
        )
    return claims


def draw(records: Records) -> Figure:
    """Differences with their intervals, a panel a task that has any."""
    shown = {task: list(differences(own).items())[::-1] for task, own in records.items()}
    shown = {task: gaps for task, gaps in shown.items() if gaps}
    count = max(1, len(shown))
    longest = max(map(len, shown.values()), default=1)
    figure = Figure(figsize=(6.0 * count, 1.6 + 0.26 * longest), layout="constrained")
    panels = figure.subplots(1, count, squeeze=False).ravel()
    for ax, (task, gaps) in zip(panels, shown.items(), strict=False):
        for at, (arm, gap) in enumerate(gaps):
            color = COLOURS[ARMS[arm].of]
            ax.errorbar(gap.mean, at, xerr=gap.half_width, fmt="o", color=color, ms=4, capsize=2)
            ax.plot(gap.values, [at] * len(gap.values), "|", color=color, alpha=0.6)
        ax.axvline(0, color="0.4", lw=1)
        ax.set_yticks(range(len(gaps)), [arm for arm, _ in gaps])
        ax.set(xlabel="difference of returns", title=task)
        for preset in {ARMS[arm].of: None for arm, _ in gaps}:
            ax.plot([], [], "o", color=COLOURS[preset], ms=4, label=f"to {NAMES[preset]}")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    return figure


def command() -> argparse.ArgumentParser:
    """The options of the command."""
    found = options(COMPARISON, __doc__)
    found.prog = "python -m benchmarks.claims.laptop_budget.diagnosis"
    add_continue(found)
    return found


def main() -> int:
    """Be the command; returns the exit status."""
    arguments = command().parse_args()
    if arguments.go_on and (arguments.quick or arguments.seeds):
        raise Mistake("--continue adds to the table of four seeds; leave --quick and --seeds out")
    name, arms, tasks, budget = choose(COMPARISON, arguments)
    asked = [(task, arm) for task in tasks for arm in arms]
    known = read_known(RESULTS / f"{NAME}.json") if arguments.go_on else None
    name = NAME if arguments.go_on else name

    def found() -> Findings:
        whole = measure(asked, budget, arguments.records, known)
        return Findings(whole.claims, whole.details, {name: whole.figures[NAME]})

    return carry_out(name, TITLE, arguments, found)


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
