"""The Reverie suite: benchmark data that anyone rebuilds from seeds.

    python -m benchmarks.suite build --small       # runs/suite-small, about an hour of two cores
    python -m benchmarks.suite build               # runs/suite, meant for a GPU
    python -m benchmarks.suite check runs/suite-small

Six tasks (pendulum, swing-up, two-tanks, hopper, halfcheetah, walker2d), each as random,
medium-replay, medium and expert data of SAC, as D4RL grades them (arXiv:2004.07219), made by
`training.collect` from fixed seeds and budgets. A killed build goes on where it was; the same
command again changes nothing. `FOLDER/datasets` is a root of Minari's, `FOLDER/suite.json` tells
what lies there: environments, licence, seeds, reference returns, statistics and checksums.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from reverie.benchmarks.claims.experiment import run_all
from reverie.benchmarks.claims.report import RESULTS, Claim, finish
from reverie.benchmarks.speed.hardware import describe as describe_machine
from reverie.benchmarks.suite.facts import checksum, compare, describe, load
from reverie.benchmarks.suite.tasks import DATASETS, LICENCE, RUNS, SEED, TASKS, dataset_ids
from reverie.envs.specs import Reference
from reverie.mistake import Mistake
from reverie.training.collect.__main__ import collect
from reverie.training.files import write_json
from reverie.training.launch.make import compose_command
from reverie.training.launch.mistakes import one_line_errors
from reverie.training.results.summary import read_summary, versions
from reverie.training.run_directory import SUMMARY
from reverie.training.stored import contents_of, read_record

NAME = "suite"
TITLE = "The Reverie suite: what was built"
MANIFEST = "suite.json"
RECORDED = RESULTS / f"{NAME}.json"
HEADER = ("dataset", "rows", "episodes", "terminated", "mean return", "best", "mean score")
_BUILD = "python -m benchmarks.suite build"


def build(
    names: Sequence[str],
    size: str,
    folder: Path,
    *,
    seed: int = SEED,
    changes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Make what is not there yet, tasks side by side; returns the manifest, which is written, too.

    Args:
        names: of `TASKS`.
        size: `small` or `full`.
        folder: of the suite.
        seed: of everything.
        changes: settings of `training.collect` for all tasks, of a look that is no suite.

    Raises:
        Mistake: see `training.collect`; the folder holds a suite of another size or seed.
    """
    _known_tasks(folder, size, seed)
    longest = [name for name in reversed(TASKS) if name in names]
    jobs: dict[str, Callable[[], float]] = {
        name: partial(
            build_task, {**TASKS[name].settings(name, size, folder, seed), **(changes or {})}
        )
        for name in longest
    }
    seconds = run_all(jobs)
    entries = _known_tasks(folder, size, seed)  # with what others have built here meanwhile
    for name in names:
        made = describe_task(name, size, folder)
        # A build that only looks whether all is there took no time.
        if name in entries and entries[name]["policies"] == made["policies"]:
            seconds[name] = max(seconds[name], entries[name]["seconds"])
        entries[name] = made | {"seconds": seconds[name]}
    manifest = {
        "size": size,
        "seed": seed,
        "licence": LICENCE,
        "hardware": describe_machine(torch.device("cpu")),
        "versions": versions(),
        "tasks": {name: entries[name] for name in TASKS if name in entries},
    }
    write_json(folder / MANIFEST, manifest, with_digest=True)
    return manifest


def _known_tasks(folder: Path, size: str, seed: int) -> dict[str, Any]:
    """What an earlier build left in this folder."""
    if not (folder / MANIFEST).is_file():
        return {}
    known = read_manifest(folder)
    if (known["size"], known["seed"]) != (size, seed):
        raise Mistake(
            f"{folder} holds the {known['size']} suite of seed {known['seed']}, asked for is the "
            f"{size} one of seed {seed}; give another --output"
        )
    return dict(known["tasks"])


def build_task(settings: Mapping[str, Any]) -> float:
    """One collection, or what is left of it; returns the core-seconds that it took."""
    begun = time.process_time()
    collect(compose_command("collect", **settings), [])
    return time.process_time() - begun


def describe_task(name: str, size: str, folder: Path) -> dict[str, Any]:
    """What a collection left: its task, policies and datasets, read back from their files."""
    summary = read_summary(folder / RUNS / name / SUMMARY)
    found = {}
    for kind, id in dataset_ids(name, size).items():
        data = load(folder, id)
        found[kind] = {"id": id, "sha256": checksum(folder, id), **describe(data)}
    return {
        "environment": summary["environment"],
        "spec": {
            "obs": list(data.spec.obs_labels),
            "actions": list(data.spec.action_labels),
            "action_low": list(data.spec.action_low),
            "action_high": list(data.spec.action_high),
            "time_limit": data.spec.max_episode_steps,
        },
        "reference": summary["reference"],
        "policies": summary["policies"],
        "env_steps": summary["env_steps"],
        "datasets": found,
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a build wrote beside its datasets.

    Raises:
        Mistake: there is none, or it is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise Mistake(f"{path} does not exist; give the folder of a build, or run {_BUILD}")
    return _read(path)


def read_recorded(size: str, path: Path = RECORDED) -> dict[str, Any]:
    """The manifest of this size that the repository records, without tasks where there is none."""
    if not path.is_file():
        return {"tasks": {}}
    found = read_record(path)
    with contents_of(path, "the suite", "restore it"):
        recorded: dict[str, Any] = found["sizes"].get(size, {"tasks": {}})
        return recorded


def _read(path: Path) -> dict[str, Any]:
    remedy = f"move it away and run {_BUILD} again, which trains nothing twice"
    found = read_record(path, remedy)
    if not isinstance(found.get("tasks"), dict) or not found["tasks"]:  # of somebody else
        raise Mistake(f"{path} tells of no datasets of a suite; give the folder of a build")
    with contents_of(path, "a suite", remedy):
        for entry in found["tasks"].values():
            Reference(**entry["reference"])
            for dataset in entry["datasets"].values():
                dataset["id"], dataset["sha256"], dataset["fingerprint"]
        found["size"], found["seed"]
    return found


def check(folder: Path, recorded: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Every dataset of a build against its own checksums and against the recorded table.

    Args:
        folder: of the suite.
        recorded: from `read_recorded`.

    Returns:
        Ids; `same` (bit by bit), `alike` (another machine's), `other`, `damaged` or `new` (none
        is recorded); and what that is based on.
    """
    manifest = read_manifest(folder)
    found = []
    for name, entry in manifest["tasks"].items():
        theirs = recorded["tasks"].get(name)
        for kind, own in entry["datasets"].items():
            known = None if theirs is None else theirs["datasets"].get(kind)
            reference = None if theirs is None else Reference(**theirs["reference"])
            found.append((own["id"], *_judge(folder, kind, own, known, reference)))
    return found


def _judge(
    folder: Path,
    kind: str,
    own: Mapping[str, Any],
    recorded: Mapping[str, Any] | None,
    reference: Reference | None,
) -> tuple[str, str]:
    try:
        if checksum(folder, own["id"]) != own["sha256"]:
            return "damaged", "its file is not the one that was built"
        now = describe(load(folder, own["id"]))
    except Mistake as error:
        return "damaged", str(error)
    if now["fingerprint"] != own["fingerprint"]:
        return "damaged", "its rows are not those that were built"
    if recorded is None or reference is None:
        return "new", "nothing is recorded to compare with"
    told = (
        f"return {now['return_mean']:.4g}, recorded {recorded['return_mean']:.4g} "
        f"(0 = {reference.low:.4g}, 100 = {reference.high:.4g})"
    )
    if now["fingerprint"] == recorded["fingerprint"]:
        return "same", told
    differences = compare(kind, now, recorded, reference)
    return ("other", "; ".join(differences)) if differences else ("alike", told)


def claims(size: str, manifest: Mapping[str, Any]) -> list[Claim]:
    """Whether the data are graded as their names say."""
    lines = []
    for name, entry in manifest["tasks"].items():
        means = {kind: own["score_mean"] for kind, own in entry["datasets"].items()}
        order = [means[kind] for kind in ("random", "medium", "expert")]
        inside = entry["policies"]["medium"]["within_range"]
        lines.append(
            Claim(
                f"{size} {name}: mean scores rise from random over medium to expert",
                "rising",
                f"{', '.join(f'{kind} {mean:.1f}' for kind, mean in means.items())}; medium policy "
                f"{entry['policies']['medium']['score']:.1f} of "
                f"{entry['policies']['expert']['return_mean']:.4g}"
                f"{'' if inside else ' (training jumped over 33 to 50)'}, "
                f"{entry['seconds'] / 60:.1f} minutes of a core",
                order == sorted(order) and len(set(order)) == 3,
                "ours",
            )
        )
    absent = [name for name in TASKS if name not in manifest["tasks"]]
    lines.append(
        Claim(f"{size}: tasks not built", "none", ", ".join(absent) or "none", None, "ours")
    )
    return lines


def table(size: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Every dataset of a size, as plain text."""
    rows = []
    for entry in manifest["tasks"].values():
        for own in entry["datasets"].values():
            counts = [f"{own[key]:,}" for key in ("rows", "episodes", "terminated")]
            returns = [f"{own[key]:.4g}" for key in ("return_mean", "return_best")]
            rows.append([own["id"], *counts, *returns, f"{own['score_mean']:.1f}"])
    references = "; ".join(
        f"{name} {entry['reference']['low']:.4g} and {entry['reference']['high']:.4g}"
        for name, entry in manifest["tasks"].items()
    )
    caption = (
        f"The {size} suite, licence {manifest['licence']}, seed {manifest['seed']}; returns that "
        f"score 0 and 100: {references}"
    )
    return {"caption": caption, "header": list(HEADER), "rows": rows}


def record(size: str, manifest: Mapping[str, Any], output: Path) -> int:
    """Add a build to the recorded table, whose other sizes and tasks stay; the exit status."""
    path = output / RECORDED.name
    sizes = dict(read_record(path)["sizes"]) if path.is_file() else {}
    before = sizes.get(size, {}).get("tasks", {})
    tasks = {**before, **manifest["tasks"]}
    tasks = {name: tasks[name] for name in TASKS if name in tasks}
    sizes[size] = {**manifest, "tasks": tasks}
    return finish(
        NAME,
        TITLE,
        [line for each, own in sizes.items() for line in claims(each, own)],
        {"sizes": sizes, "tables": [table(each, own) for each, own in sizes.items()]},
        quick=False,
        output=output,
        seconds=sum(entry["seconds"] for own in sizes.values() for entry in own["tasks"].values()),
    )


def command() -> argparse.ArgumentParser:
    """The options of the command."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.suite",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = found.add_subparsers(dest="action", required=True)
    making = actions.add_parser("build", help="make what is not there yet")
    making.add_argument("--small", action="store_true", help="fewer steps and rows")
    making.add_argument("--only", nargs="+", metavar="TASK", choices=tuple(TASKS), help="of them")
    making.add_argument("--output", type=Path, help="folder; runs/suite[-small]")
    making.add_argument("--seed", type=int, default=SEED, help="another suite of the same kind")
    making.add_argument(
        "--record", action="store_true", help=f"also write it to benchmarks/results/{NAME}.json"
    )
    checking = actions.add_parser("check", help="checksums, and returns against the recorded ones")
    checking.add_argument("folder", type=Path, help="of a build")
    return found


def main() -> int:
    """Be the command; returns the exit status, 1 where a claim or a dataset fails."""
    arguments = command().parse_args()
    if arguments.action == "check":
        found = check(arguments.folder, read_recorded(read_manifest(arguments.folder)["size"]))
        for id, word, told in found:
            print(f"{word:8}{id}: {told}")
        bad = [id for id, word, _ in found if word in ("other", "damaged")]
        print(f"{len(found)} datasets, {len(bad)} damaged or unlike the recorded ones")
        return 1 if bad else 0
    if arguments.record and arguments.seed != SEED:
        raise Mistake(f"--seed {arguments.seed} is not what is recorded; leave --record out")
    size = "small" if arguments.small else "full"
    folder = arguments.output or Path("runs") / ("suite-small" if arguments.small else "suite")
    manifest = build(arguments.only or list(TASKS), size, folder, seed=arguments.seed)
    print(f"datasets: {folder / DATASETS}\nwritten: {folder / MANIFEST}")
    return record(size, manifest, RESULTS) if arguments.record else 0


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
