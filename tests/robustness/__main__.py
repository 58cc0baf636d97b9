"""Damage files and settings, and see whether anything but a clear refusal comes of it.

`python -m tests.robustness --mutations 5000 --seed 1` damages that many copies of recordings
(.hdf5, .npz, Minari), of a run's files and caches, and of command lines. Each attempt ends as
right (the values are those of the undamaged file, or what the file now says), refused (one line
that names the file), or as a fault, which is printed with what repeats it: `--only NUMBER`.
Ends with 1 if there is a fault.
"""

import argparse
import json
import os
import shutil
import sys
from collections import Counter, defaultdict
from pathlib import Path
from tempfile import mkdtemp

import numpy as np

from tests.robustness import sandbox
from tests.robustness.judging import REFUSED, RIGHT
from tests.robustness.subjects import SUBJECTS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="repeat one attempt and show all it printed")
    parser.add_argument("--subjects", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS))
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--output", type=Path, help="also write every attempt as a line of JSON")
    options = parser.parse_args()
    sandbox.import_everything()
    # A TemporaryDirectory would also be removed at the end of every forked child.
    folder = Path(mkdtemp(prefix="robustness-"))
    try:
        prepare(folder, options.subjects)
        numbers = range(options.mutations) if options.only is None else [options.only]
        found = attempt_all(folder, options.subjects, options.seed, list(numbers), options.jobs)
    finally:
        shutil.rmtree(folder)
    if options.output:
        options.output.write_text("".join(json.dumps(each) + "\n" for each in found))
    if options.only is not None:
        print(found[0]["stdout"], found[0]["stderr"], sep="\n")
    return summarise(found, options.seed)


def prepare(folder: Path, names: list[str]) -> None:
    """Make the whole files of each subject in a folder of its own."""
    for name in names:
        (folder / name).mkdir()
        SUBJECTS[name][1].prepare(folder / name)


def attempt_all(
    folder: Path, names: list[str], seed: int, numbers: list[int], jobs: int = 1
) -> list[dict]:
    """Attempt all `numbers`, shared among `jobs` processes; what an attempt does depends on
    `seed` and its number alone."""
    children = []
    for job in range(jobs):
        child = os.fork()
        if child == 0:
            try:
                with open(folder / f"found-{job}.jsonl", "w") as file:
                    for number in numbers[job::jobs]:
                        found = attempt(folder / f"attempt-{job}", folder, names, seed, number)
                        file.write(json.dumps(found) + "\n")
                        file.flush()
                os._exit(0)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
        children.append(child)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert not any(statuses), "the harness itself failed"
    found = []
    for job in range(jobs):
        lines = (folder / f"found-{job}.jsonl").read_text().splitlines()
        found += [json.loads(line) for line in lines]
    return sorted(found, key=lambda each: each["number"])


def attempt(work: Path, folder: Path, names: list[str], seed: int, number: int) -> dict:
    """One attempt in the folder `work`, which goes with it; as plain values."""
    rng = np.random.default_rng([seed, number])
    shares = np.array([SUBJECTS[name][0] for name in names])
    name = names[int(rng.choice(len(names), p=shares / shares.sum()))]
    work.mkdir()
    try:
        done = SUBJECTS[name][1].attempt(rng, folder / name, work)
    finally:
        shutil.rmtree(work)
    return {
        "number": number,
        "subject": name,
        "how": done.how,
        "verdict": done.verdict,
        "seconds": done.outcome.seconds,
        "megabytes": done.outcome.megabytes,
        "status": done.outcome.status,
        "stdout": done.outcome.stdout[-4000:],
        "stderr": done.outcome.stderr[-4000:],
    }


def summarise(found: list[dict], seed: int) -> int:
    """Print the counts and each fault; returns 1 if there is one."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for each in found:
        kind = each["verdict"] if each["verdict"] in (RIGHT, REFUSED) else "fault"
        counts[each["subject"]][kind] += 1
        if kind == "fault":
            last = each["stderr"].strip().splitlines()[-1:] or [""]
            print(f"fault {each['number']} ({each['subject']}): {each['how']!r} {each['verdict']}")
            print(f"    {last[0][:300]}")
    for subject, by_kind in counts.items():
        shown = ", ".join(f"{by_kind[kind]} {kind}" for kind in (RIGHT, REFUSED, "fault"))
        print(f"{subject}: {sum(by_kind.values())} attempts: {shown}")
    faults = sum(by_kind["fault"] for by_kind in counts.values())
    slowest = max((each["seconds"] for each in found), default=0.0)
    largest = max((each["megabytes"] for each in found), default=0.0)
    print(
        f"{len(found)} attempts of seed {seed}: {faults} faults; at most {slowest:.1f} s of "
        f"processor time and {largest:,.0f} MB"
    )
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
