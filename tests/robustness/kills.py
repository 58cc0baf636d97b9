"""Kill commands at random moments, and see whether they end as if nothing had happened.

`python -m tests.robustness.kills --kills 100 --seed 1` kills trainings, overwrites, fits, caches,
collections and sweeps, each once or more often, and runs the same command again until it ends. Then
everything on disk must be what an uninterrupted command leaves, to the bit except for times, and
nothing besides. A fault is printed with what repeats it: `--only NUMBER`. Ends with 1 if there is
one.
"""

import argparse
import random
import shutil
import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

import torch

from tests.cli.prepared import MODULES
from tests.robustness import ambush
from tests.robustness.likeness import differences

AGAIN = 4
"""Kills of one trial at most."""
AGENT = (
    *("dataset.episodes=12", "batch_size=32", "agent.hidden=[16,16]", "updates=60", "threads=1"),
    *("evaluate.every=20", "evaluate.episodes=2", "probe_starts=16", "value_gap.starts=0"),
    *("log_every=10", "checkpoint_every=10", "root=runs"),
)
MODEL = (
    *("world_model.hidden=[16]", "world_model.weight_decay=[0.0,0.0]"),
    "world_model.max_epochs=3",
)
ROLLOUTS = ("source.starts=40", "source.every=20", "source.horizon=3")
ONLINE = (
    *(each for each in AGENT if not each.startswith("dataset")),
    *("dataset=random", "dataset.env_id=Pendulum-v1", "dataset.steps=300"),
    *("online.every=2", "online.refit_every=10", "evaluate.every=30", "probe_starts=0"),
)
GENERATED = (
    *("generator=transition_small", "generator.network.width=16", "generator.steps=30"),
    *("generator.batch=32", "generator.measure_every=5", "generator.checkpoint_every=5"),
    *("generator.heldout_records=8", "source.records=20", "source.chunk=8", "sampler.steps=3"),
)
COLLECT = (
    *("-m", "reverie.training.collect", "env_id=tests.training.pull:Pull-v0"),
    *("steps=60", "rows=45", "dataset.steps=20", "batch_size=16", "agent.hidden=[16,16]"),
    *("agent.actor_learning_rate=1e-2", "agent.critic_learning_rate=1e-2", "evaluate.every=20"),
    *("evaluate.episodes=3", "score_episodes=5", "checkpoint_every=15", "log_every=10"),
    *("threads=1", "path=data", "root=runs"),
)
TD3_BC = ("train.py", "algorithm=td3_bc", *AGENT)
DREAMS = ("train.py", "algorithm=mopo", *AGENT, *ROLLOUTS)
PAIR = ("world_model.members=2", "world_model.elites=1")
WINDOWS = (*PAIR, "world_model.batch=8", "world_model.forcing.steps=4")
CLONE = (
    *("behaviour.hidden=[16]", "behaviour.steps=30", "behaviour.batch=32"),
    *("behaviour.measure_every=10", "pretraining.epochs=1"),
)


@dataclass(frozen=True)
class Scenario:
    """What is killed.

    Attributes:
        command: that dies, and is run again.
        before: runs once, unharmed, and makes what the command finds.
        old: where the command overwrites a run: the command that goes on with that one.
    """

    command: tuple[str, ...]
    before: tuple[str, ...] = ()
    old: tuple[str, ...] = ()


OLD = (*TD3_BC, "run_dir=runs/one", "agent.discount=0.99")
SCENARIOS = {
    "run": Scenario(TD3_BC, before=(*TD3_BC, "updates=1", "root=.")),
    "overwrite": Scenario(
        (*TD3_BC, "run_dir=runs/one", "agent.discount=0.5", "overwrite=true"), OLD, OLD
    ),
    "fit": Scenario(("train.py", "algorithm=mopo", "seeds=2", *AGENT, *MODEL, *ROLLOUTS)),
    "cache": Scenario((*TD3_BC, "updates=3")),
    "online": Scenario(("train.py", "algorithm=mbpo_online", *ONLINE, *MODEL, *ROLLOUTS)),
    "diffusion": Scenario(("train.py", "algorithm=synther", *AGENT, *GENERATED)),
    "forced": Scenario((*DREAMS, "world_model=forced", *MODEL, *WINDOWS)),
    "recurrent": Scenario(
        (
            *DREAMS,
            "world_model=recurrent",
            "world_model.width=8",
            "world_model.max_epochs=3",
            *WINDOWS,
        )
    ),
    "neural_ode": Scenario((*DREAMS, "world_model=neural_ode", *MODEL, *PAIR)),
    "admpo": Scenario(
        (
            *("train.py", "algorithm=admpo", *AGENT, *ROLLOUTS, "world_model.width=8"),
            *("world_model.layers=1", "world_model.blocks=1", "world_model.batch=64"),
            *("world_model.max_epochs=4", "world_model.checkpoint_every=1"),
        )
    ),
    "neubay": Scenario(
        (
            *("train.py", "algorithm=neubay", *AGENT, *MODEL, "world_model.members=3"),
            *("world_model.elites=2", "source.lanes=10", "source.capacity=500"),
        )
    ),
    "drrl": Scenario(("train.py", "algorithm=drrl", *AGENT, *MODEL, *ROLLOUTS, *CLONE)),
    "apg": Scenario(("train.py", "algorithm=apg", *AGENT, *MODEL, "agent.horizon=4")),
    "collect": Scenario(COLLECT),
    "sweep": Scenario(("train.py", "-m", *TD3_BC[1:], "updates=20", "seed=0,1")),
}


@dataclass
class Subject:
    """A scenario with what it leaves when nobody interrupts it.

    Attributes:
        start, whole, older: folders, before the command, after it, and of the run it overwrites.
        moments: how many there are of each kind to be killed at.
    """

    scenario: Scenario
    start: Path
    whole: Path
    moments: dict[str, int] = field(default_factory=dict)


def prepare(scenario: Scenario, folder: Path) -> Subject:
    """Run a scenario's commands without a kill."""
    subject = Subject(scenario, folder / "start", folder / "whole")
    subject.start.mkdir(parents=True)
    if scenario.before:
        require(ambush.run(scenario.before, subject.start))
    shutil.copytree(subject.start, subject.whole)
    ending, subject.moments = ambush.count(scenario.command, subject.whole)
    require(ending)
    sizes = [path.stat().st_size for path in subject.whole.rglob("*") if path.is_file()]
    subject.moments |= {"torn": max(sizes), "clock": 2500}
    return subject


def require(ending: ambush.Ending) -> None:
    if ending.status:
        raise SystemExit(f"the harness itself fails: {ending.text}")


@dataclass
class Trial:
    """One subject, killed until `kills` moments were hit.

    Attributes:
        number: of the trial, which with the seed decides all.
        hit: kinds of the moments at which the command died.
        fault: what is wrong in the end, None if nothing is.
    """

    number: int
    name: str
    hit: list[str] = field(default_factory=list)
    fault: str | None = None

    def carry_out(self, subject: Subject, place: Path, chance: random.Random) -> None:
        """Kill, run again, and compare."""
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(subject.start, place)
        scenario = subject.scenario
        for _ in range(chance.choice((1, 1, 2, AGAIN))):
            kind = chance.choice(sorted(subject.moments))
            at = 1 + int(subject.moments[kind] * chance.random() ** (3 if kind == "torn" else 1))
            ending = ambush.run(scenario.command, place, partial(ambush.die_at, kind, at))
            if not ending.killed:
                if ending.status:
                    self.fault = f"after {kind} {at}: {ending.text}"
                    return
                break
            self.hit.append(f"{kind} {at}")
            if scenario.old and self.is_mixed(subject, place, chance):
                return
        ending = ambush.run(scenario.command, place)
        if ending.status:
            self.fault = f"status {ending.status}: {ending.text}"
            return
        different = differences(subject.whole, place)
        if different:
            self.fault = "; ".join(different)

    def is_mixed(self, subject: Subject, place: Path, chance: random.Random) -> bool:
        """Whether a killed overwrite left neither the old run nor a new one."""
        if chance.random() < 0.5:
            return False
        ending = ambush.run(subject.scenario.old, place)
        if ending.status == 0:
            different = differences(subject.start, place)
            if different:
                self.fault = f"the old run is not whole: {'; '.join(different)}"
        elif "holds a run with agent.discount=0.5" not in ending.text:
            self.fault = f"neither the old run nor a new one: {ending.text}"
        return self.fault is not None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="ends when so many were dealt")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="repeat one trial")
    parser.add_argument("--of", nargs="+", choices=list(SCENARIOS), default=list(SCENARIOS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in MODULES:
        __import__(name)
    # A TemporaryDirectory would also be removed at the end of every forked child.
    folder = Path(mkdtemp(prefix="kills-"))
    subjects: dict[str, Subject] = {}
    kills, faults = Counter[str](), 0
    number = options.only or 0
    while kills.total() < options.kills:
        chance = random.Random(f"{options.seed}/{number}")
        name = options.of[number % len(options.of)]
        if name not in subjects:
            subjects[name] = prepare(SCENARIOS[name], folder / name)
        trial = Trial(number, name)
        trial.carry_out(subjects[name], folder / "trial", chance)
        print(f"{number}: {name}, killed at {', '.join(trial.hit) or 'no moment'}", flush=True)
        if trial.fault is not None:
            faults += 1
            again = f"--seed {options.seed} --of {' '.join(options.of)} --only {number}"
            print(f"FAULT: {trial.fault}\nrepeat it: {again}", flush=True)
        kills.update(f"{name}, {each.split()[0]}" for each in trial.hit)
        if options.only is not None:
            break
        number += 1
    for kind, times in sorted(kills.items()):
        print(f"{times:5} {kind}")
    print(f"{kills.total()} kills, {faults} faults")
    if faults and options.only is not None:
        print(f"its files: {folder}")
    else:
        shutil.rmtree(folder)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
