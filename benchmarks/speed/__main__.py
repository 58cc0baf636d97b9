"""How fast everything runs that takes a run's time: `python -m benchmarks.speed`.

Updates of every agent, fits and rollouts of models, as they are and compiled, beside a plain
reference where there is one; measured in turns in one process, with the share of the machine's own
matrix-product rate that each reaches. Writes JSON as it goes and a picture, and ends with status 1
where a requirement is missed. `--only` measures a part anew. `python -m benchmarks.speed sampler`
does the same for the samplers of diffusion generators, at equal error.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from reverie.benchmarks.claims.report import save_figure
from reverie.benchmarks.speed import agents, models, samplers
from reverie.benchmarks.speed.hardware import cpu_name, describe, slug, square_product
from reverie.benchmarks.speed.quantities import (
    Quantity,
    Sizes,
    ensemble_rows,
    rollout_transitions,
)
from reverie.benchmarks.speed.report import figure, judged, table
from reverie.benchmarks.speed.timing import WARM_UP_CALLS, Contender, race
from reverie.mistake import Mistake
from reverie.training.compilation import can_compile, pick_device, should_compile, wrapper
from reverie.training.files import write_json
from reverie.training.launch.mistakes import one_line_errors

RESULTS = Path(__file__).parent.parent / "results"
CPU = Sizes(batch=256, stored_rows=100_000, many_seeds=4, starts=5_000, horizon=5, matrix=2048)
GPU = replace(CPU, many_seeds=16, starts=50_000, matrix=8192)
ROUNDS, SECONDS = 7, 0.3
QUICK_ROUNDS, QUICK_SECONDS, QUICK_STARTS = 3, 0.1, 1_000
SLOW_ROUNDS = 3  # of what takes seconds a call


def main() -> int:
    """Measure, print, write; returns the exit status."""
    arguments = parse()
    device = pick_device(arguments.device)
    choice: str | bool = {"true": True, "false": False}.get(arguments.compile, "auto")
    if arguments.what == "sampler":
        wrap = wrapper(choice, device)
        return samplers.main(arguments.quick, arguments.output, device, wrap)
    rounds, seconds = (QUICK_ROUNDS, QUICK_SECONDS) if arguments.quick else (ROUNDS, SECONDS)
    sizes = GPU if device.type == "cuda" else CPU
    if arguments.quick:
        sizes = replace(sizes, starts=QUICK_STARTS)
    console, compiling = Console(), should_compile(choice, device)
    if choice == "auto" and device.type == "cpu" and not arguments.quick:
        compiling = can_compile()
    built = builders(sizes, device, compiling)
    chosen = choose(list(built), arguments.only)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    quick = "-quick" if arguments.quick else ""
    output: Path = arguments.output or RESULTS / f"speed-{slug(name)}{quick}.json"

    call, operations = square_product(sizes.matrix, device)
    products = race({"product": Contender(call, 1)}, rounds=5, seconds=seconds, device=device)
    peak = products.median("product") * operations
    report = {
        "benchmark": "speed",
        "date": date.today().isoformat(),
        "quick": arguments.quick,
        "hardware": describe(device),
        "float32_matrix_product_flops": peak,
        "tf32": torch.backends.cuda.matmul.allow_tf32 if device.type == "cuda" else None,
        "sizes": vars(sizes),
        "rounds": rounds,
        "seconds_per_turn": seconds,
    }
    results = earlier(output, report) if arguments.only else {}
    for short in chosen:
        quantity = built[short]()
        warm_up = 1 if quantity.slow else WARM_UP_CALLS
        rates = race(
            quantity.contenders,
            rounds=SLOW_ROUNDS if quantity.slow else rounds,
            seconds=seconds,
            device=device,
            warm_up=warm_up,
        )
        results[short] = {"name": short, **judged(quantity, rates, peak)}
        report["results"] = [results[each] for each in built if each in results]
        report["partial"] = len(results) < len(built)
        write_json(output, report)
        console.print(f"measured: {quantity.key}", highlight=False)
        del quantity
        torch._dynamo.reset()  # or the eighth update would be refused as one compiled too often
    console.print(table(report))
    save_figure(figure(report), output.with_suffix(".png"))
    console.print(f"written: {output}", highlight=False, soft_wrap=True)
    return 0 if all(results[short]["holds"] is not False for short in chosen) else 1


def builders(
    sizes: Sizes, device: torch.device, compiling: bool
) -> dict[str, Callable[[], Quantity]]:
    """Everything that is measured, by a short name; each is built when its turn comes."""
    given = (sizes, device, compiling)
    return {
        **agents.builders(*given),
        "ensemble": partial(ensemble_rows, *given),
        "rollouts": partial(rollout_transitions, *given),
        **models.builders(*given),
    }


def choose(names: Sequence[str], patterns: Sequence[str] | None) -> list[str]:
    """The names that fit one of the patterns; all without patterns.

    Raises:
        Mistake: a pattern fits none.
    """
    if not patterns:
        return list(names)
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            raise Mistake(f"--only {pattern} fits none of {', '.join(names)}")
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]


def earlier(path: Path, report: Mapping[str, Any]) -> dict[str, Any]:
    """Results, by short name, of a file that a run of a part adds to; none where there is none.

    Raises:
        Mistake: it is no such file, or was measured in another way or on another machine.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text())
        results = {each["name"]: each for each in found["results"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise Mistake(
            f"{path} holds no results that a part can be added to; measure without --only, or "
            "give another file by --output"
        ) from None
    for key in ("hardware", "sizes", "rounds", "seconds_per_turn"):
        if found.get(key) != report[key]:
            raise Mistake(
                f"{path} was measured with {key}={found.get(key)}, now it is {report[key]}; "
                "measure without --only, or give another file by --output"
            )
    return results


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("what", nargs="?", default="training", choices=["training", "sampler"])
    parser.add_argument("--quick", action="store_true", help="a look: short turns, not compiled")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--compile", default="auto", choices=["auto", "true", "false"])
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="a part: sac 'td3*' planner; joins the file",
    )
    parser.add_argument(
        "--output", type=Path, help="JSON file (of sampler: folder); default benchmarks/results/"
    )
    return parser.parse_args()


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
