"""Whether small runs of six methods still write the same metrics.csv, to the byte.

`python -m tests.identical_metrics record FOLDER` runs them at one commit and keeps what they wrote;
`python -m tests.identical_metrics compare FOLDER` runs them again, at another commit on the same
machine, and names the first difference. A refactor must show none.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

SMALL = (
    "updates=60",
    "batch_size=32",
    "agent.hidden=[16,16]",
    "evaluate.every=20",
    "evaluate.episodes=2",
    "probe_starts=16",
    "log_every=10",
    "checkpoint_every=30",
    "threads=1",
    "seeds=2",
)
BRANCHED = ("source.starts=40", "source.every=20", "source.horizon=3", "dataset.episodes=12")
ENSEMBLE = (
    "world_model.hidden=[16]",
    "world_model.weight_decay=[0.0,0.0]",
    "world_model.max_epochs=2",
    "value_gap.starts=4",
)
RUNS = {
    "mopo": ("algorithm=mopo", *BRANCHED, *ENSEMBLE, "lipschitz.states=64"),
    "iql": ("algorithm=iql", "dataset.episodes=12"),
    "pgd": (
        "algorithm=pgd",
        "dataset.episodes=12",
        "generator=trajectory_small",
        "generator.network.width=16",
        "generator.steps=60",
        "generator.batch=8",
        "generator.measure_every=5",
        "generator.checkpoint_every=5",
        "generator.heldout_records=8",
        "source.records=20",
        "source.chunk=8",
        "source.every=20",
        "sampler.steps=3",
    ),
    "h2o": (
        "algorithm=h2o",
        "dataset.episodes=12",
        "simulator.gravity=2",
        "agent.discriminators.hidden=[16]",
        "batch_size=96",
        "source.warmup=40",
    ),
    "mbpo_online": (
        "algorithm=mbpo_online",
        "dataset=random",
        "dataset.env_id=Pendulum-v1",
        "dataset.steps=300",
        "online.every=2",
        "online.refit_every=10",
        *BRANCHED[:3],
        *ENSEMBLE,
    ),
    "sindy_rl": ("algorithm=sindy_rl", *BRANCHED, "value_gap.starts=4"),
}
"""Arguments of train.py by method."""
RENAMED: dict[str, str] = {}
"""Metrics that had another name when the metrics were recorded: {old: new}."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["record", "compare"])
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    differing = 0
    with TemporaryDirectory() as folder:
        for name, arguments in RUNS.items():
            metrics = train(Path(folder, name), (*SMALL, *arguments))
            kept = given.folder / f"{name}.csv"
            if given.action == "record":
                shutil.copyfile(metrics, kept)
                print(f"{name}: kept {kept}")
                continue
            difference = first_difference(kept.read_text(), metrics.read_text())
            differing += difference is not None
            print(f"{name}: {difference or 'identical'}")
    sys.exit(differing > 0)


def train(run_dir: Path, arguments: tuple[str, ...]) -> Path:
    """Run train.py with a cache of its own; returns the metrics it wrote."""
    environment = os.environ | {
        "REVERIE_CACHE": str(run_dir.parent / "cache" / run_dir.name),
        "OMP_NUM_THREADS": "1",
    }
    subprocess.run(
        [sys.executable, "train.py", f"run_dir={run_dir}", *arguments],
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return run_dir / "metrics.csv"


def first_difference(before: str, after: str) -> str | None:
    """The first line that is not the same, None where all are."""
    ours, theirs = after.splitlines(), [_renamed(line) for line in before.splitlines()]
    for number, (new, old) in enumerate(zip(ours, theirs, strict=False), start=1):
        if new != old:
            return f"line {number} was {old!r}, is {new!r}"
    return None if len(ours) == len(theirs) else f"{len(theirs)} lines were, {len(ours)} are"


def _renamed(line: str) -> str:
    return ",".join(RENAMED.get(field, field) for field in line.split(","))


if __name__ == "__main__":
    main()
