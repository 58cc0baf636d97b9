"""What large datasets cost: `python -m benchmarks.speed.data_scale`.

Writes logs of 1, 5 and 10 million rows (23 columns, gzip HDF5; the first also as Minari stores it)
into a temporary folder and measures, each in a process of its own: seconds and memory of loading
them into memory and onto disk (`dataset.storage=memmap`), batches a second from both, and `check`.
Seconds are of processor time, which other work on the machine hardly changes. Memory is what the
process holds of its own, at most, beyond what it held before: not the pages of mapped files, which
the system may drop at any time. `--quick` takes 200,000 rows.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from reverie import datasets
from reverie.benchmarks.claims.report import RESULTS, Claim, finish
from reverie.datasets.check.report import report
from reverie.datasets.dataset import Dataset
from reverie.datasets.replay import Replay
from reverie.training.launch.mistakes import one_line_errors

OBS, ACTIONS, EPISODE, CHUNK = 17, 6, 1000, 10_000
ROW = 4 * (2 * OBS + ACTIONS + 1)
"""Bytes of a row without its flags."""
BATCH, SECONDS = 256, 5.0
LIMIT = 10.0
"""Seconds in which a million rows are to be there, on an idle core."""
SIZES, QUICK = (1_000_000, 5_000_000, 10_000_000), (200_000,)
MILLION = 1_000_000
MOST_CHECKED = 5_000_000


def main() -> int:
    """Measure, print, write; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.data_scale", description=__doc__
    )
    parser.add_argument("--quick", action="store_true", help="under a minute on two cores")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON")
    parser.add_argument("--measure", nargs=3, metavar=("WHAT", "STORAGE", "PATH"), help="one alone")
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(measure(*asked.measure)))
        return 0
    begun = time.monotonic()
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        for rows in QUICK if asked.quick else SIZES:
            measured[rows] = measure_size(Path(folder), rows, minari=rows in (SIZES[0], QUICK[0]))
    return finish(
        "data_scale",
        "Large datasets",
        list(claims(measured)),
        {"measured": {str(rows): found for rows, found in measured.items()}},
        quick=asked.quick,
        output=asked.output,
        seconds=time.monotonic() - begun,
    )


def measure_size(folder: Path, rows: int, *, minari: bool) -> dict[str, Any]:
    """All that is measured of a log of so many rows, which is deleted then."""
    path = folder / f"{rows}.hdf5"
    write_log(path, rows)
    asked = {
        "load": ("load", "memory", path),
        "convert": ("load", "memmap", path),
        "open": ("load", "memmap", path),
    }
    if rows <= MOST_CHECKED:
        asked["check"] = ("check", "memmap", path)
    if minari:
        write_minari(folder / "minari", path, rows)
        asked["minari"] = ("minari", "memory", folder / "minari")
        asked["minari again"] = asked["minari"]
    found = {}
    for name, (what, storage, source) in asked.items():
        found[name] = in_process(what, storage, source, folder / "cache")
        print(f"{rows:,} rows, {name}: {json.dumps(found[name])}", flush=True)
    path.unlink()
    for cached in (folder / "cache").rglob("*.npz"):
        cached.unlink()
    return found


def in_process(what: str, storage: str, path: Path, cache: Path) -> dict[str, float]:
    """One measurement, in a fresh process."""
    command = [sys.executable, "-m", "reverie.benchmarks.speed.data_scale"]
    done = subprocess.run(
        [*command, "--measure", what, storage, str(path)],
        env={**os.environ, "REVERIE_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(what: str, storage: str, path: str) -> dict[str, float]:
    """Seconds and memory of one thing, here."""
    own = _held()
    torch.zeros(2).std()  # what comes with the library
    with watching() as peak:
        begun = cpu_seconds()
        if what == "minari":
            data = datasets.load(
                "minari", id="large/log-v0", path=path, download=False, env_id=None
            )
        else:
            data = datasets.load("file", path=path, storage=storage)
        found = {"seconds": cpu_seconds() - begun}
        if what == "check":
            begun = cpu_seconds()
            report(data)
            found = {"seconds": cpu_seconds() - begun}
    found["peak_bytes"] = peak[0] - own
    return {**found, "batches_per_second": rate_of_batches(data)} if what == "load" else found


def rate_of_batches(data: Dataset) -> float:
    """Batches a second, the median of five turns, after as long a warm-up."""
    replay, rates = Replay.of(data.transitions, mapped=data.mapped), []
    for _ in range(6):
        begun, count = cpu_seconds(), 0
        while (taken := cpu_seconds() - begun) < SECONDS / 5:
            replay.sample(1, BATCH)
            count += 1
        rates.append(count / taken)
    return float(np.median(rates[1:]))


def cpu_seconds() -> float:
    """Processor time of this process and of the children that have ended."""
    return sum(os.times()[:4])


def _held() -> int:
    """Bytes of this process that are no pages of files."""
    status = Path("/proc/self/status").read_text().splitlines()
    kinds = ("RssAnon:", "RssShmem:")
    return sum(1024 * int(line.split()[1]) for line in status if line.startswith(kinds))


@contextmanager
def watching() -> Iterator[list[int]]:
    """The most that `_held` was while the block ran, looked at a hundred times a second."""
    peak, stop = [_held()], threading.Event()

    def watch() -> None:
        while not stop.wait(0.01):
            peak[0] = max(peak[0], _held())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def write_log(path: Path, rows: int) -> None:
    """Random walks in the layout of D4RL, gzip; the same hundred chunks over and over."""
    rng = np.random.default_rng(0)
    walk = rng.standard_normal((100, CHUNK + 1, OBS), np.float32).cumsum(1) * 0.01
    ends = np.arange(1, CHUNK + 1) % EPISODE == 0
    columns: dict[str, np.ndarray] = {
        "observations": walk[:, :-1],
        "next_observations": walk[:, 1:],
        "actions": rng.uniform(-1, 1, (100, CHUNK, ACTIONS)).astype(np.float32),
        "rewards": rng.standard_normal((100, CHUNK), np.float32),
        "terminals": np.zeros((100, CHUNK), bool),
        "timeouts": np.broadcast_to(ends, (100, CHUNK)),
    }
    with h5py.File(path, "w") as file:
        for name, blocks in columns.items():
            width = blocks.shape[2:]
            made = file.create_dataset(
                name, (rows, *width), blocks.dtype, chunks=(CHUNK, *width), compression="gzip"
            )
            none = (0,) * len(width)
            for chunk in range(rows // CHUNK):
                if chunk < len(blocks):
                    made[chunk * CHUNK : (chunk + 1) * CHUNK] = blocks[chunk]
                else:
                    _, packed = made.id.read_direct_chunk(((chunk % 100) * CHUNK, *none))
                    made.id.write_direct_chunk((chunk * CHUNK, *none), packed)


def write_minari(root: Path, log: Path, rows: int) -> None:
    """The same in Minari's layout, an episode a group."""
    data = root / "large/log-v0/data"
    data.mkdir(parents=True)
    with h5py.File(log) as file, h5py.File(data / "main_data.hdf5", "w") as made:
        for episode in range(rows // EPISODE):
            part = slice(episode * EPISODE, (episode + 1) * EPISODE)
            obs = file["observations"][part]
            columns = {
                "observations": np.concatenate([obs, obs[-1:]]),
                "actions": file["actions"][part],
                "rewards": file["rewards"][part],
                "terminations": file["terminals"][part],
                "truncations": file["timeouts"][part],
            }
            group = made.create_group(f"episode_{episode}")
            for name, column in columns.items():
                group.create_dataset(name, data=column, compression="gzip")
    box = {"type": "Box", "dtype": "float32"}
    metadata = {
        "dataset_id": "large/log-v0",
        "minari_version": "0.5.0",
        "data_format": "hdf5",
        "total_episodes": rows // EPISODE,
        "total_steps": rows,
        "observation_space": json.dumps(
            {**box, "shape": [OBS], "low": [-1e9] * OBS, "high": [1e9] * OBS}
        ),
        "action_space": json.dumps(
            {**box, "shape": [ACTIONS], "low": [-1.0] * ACTIONS, "high": [1.0] * ACTIONS}
        ),
    }
    (data / "metadata.json").write_text(json.dumps(metadata))


def claims(measured: dict[int, dict[str, Any]]) -> Iterator[Claim]:
    """What is required of loading, and what the rest costs."""
    for rows, found in measured.items():
        size, told = ROW * rows / 1e9, f"{rows / MILLION:g}M rows ({ROW * rows / 1e9:.2f} GB)"
        for name, label in (("load", "gzip HDF5"), ("minari", "Minari, gzip HDF5")):
            if name in found:
                seconds, peak = found[name]["seconds"], found[name]["peak_bytes"] / 1e9
                limit = LIMIT * rows / MILLION
                yield Claim(
                    f"{told} of {label} are loaded into memory",
                    f"in {limit:g} s, peak at most {1.15 * size:.2f} GB",
                    f"{seconds:.1f} s, peak {peak:.2f} GB",
                    seconds <= limit and peak <= 1.15 * size,
                    "ours",
                )
        if "minari again" in found:
            again = f"{found['minari again']['seconds']:.1f} s"
            yield Claim(f"{told} of Minari, the second time", "-", again, None, "ours")
        convert, again = found["convert"], found["open"]
        yield Claim(
            f"{told} are put on disk, and opened again (dataset.storage=memmap)",
            f"peak at most {max(0.15 * size, 0.1):.2f} GB",
            f"{convert['seconds']:.1f} s, peak {convert['peak_bytes'] / 1e9:.2f} GB; again "
            f"{again['seconds']:.1f} s, {again['peak_bytes'] / 1e9:.2f} GB",
            convert["peak_bytes"] / 1e9 <= max(0.15 * size, 0.1),
            "ours",
        )
        memory, memmap = (found[name]["batches_per_second"] for name in ("load", "open"))
        yield Claim(
            f"{told}: batches of {BATCH} a second of processor time, file in the page cache",
            "-",
            f"{memory:,.0f} in memory, {memmap:,.0f} from disk",
            None,
            "ours",
        )
        if "check" in found:
            seconds, peak = found["check"]["seconds"], found["check"]["peak_bytes"] / 1e9
            yield Claim(
                f"{told}, on disk: check",
                f"peak at most {max(0.35 * size, 0.1):.2f} GB",
                f"{seconds:.1f} s, peak {peak:.2f} GB",
                peak <= max(0.35 * size, 0.1),
                "ours",
            )


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
