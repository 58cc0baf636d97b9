"""How fast training runs beside a plain reference: `python -m benchmarks.speed`.

Prints updates, model-training rows and rollout transitions per second of both, measured in turns in
one process, and the share of the machine's own matrix-product rate that each reaches. Writes JSON,
and ends with status 1 where a requirement is missed. `python -m benchmarks.speed sampler` does the
same for the samplers of diffusion generators, at equal error.
"""

import argparse
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from reverie.benchmarks.speed import samplers
from reverie.benchmarks.speed.hardware import cpu_name, describe, slug, square_product
from reverie.benchmarks.speed.quantities import REFERENCE, Quantity, Sizes, quantities
from reverie.benchmarks.speed.timing import Contender, race
from reverie.training.compilation import pick_device, should_compile, wrapper
from reverie.training.files import write_json
from reverie.training.launch.mistakes import one_line_errors

RESULTS = Path(__file__).parent.parent / "results"
CPU = Sizes(batch=256, stored_rows=100_000, many_seeds=4, starts=5_000, horizon=5, matrix=2048)
GPU = replace(CPU, many_seeds=16, starts=50_000, matrix=8192)
ROUNDS, SECONDS = 31, 0.5
QUICK_ROUNDS, QUICK_SECONDS, QUICK_STARTS = 5, 0.5, 1_000


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
    console = Console()

    call, operations = square_product(sizes.matrix, device)
    products = race({"product": Contender(call, 1)}, rounds=5, seconds=seconds, device=device)
    peak = products.median("product") * operations
    results = []
    for quantity in quantities(sizes, device, should_compile(choice, device)):
        result = measure(quantity, rounds, seconds, device, peak)
        results.append(result)
        console.print(f"measured: {quantity.key}", highlight=False)
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
        "results": results,
    }
    console.print(table(report))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    quick = "-quick" if arguments.quick else ""
    output = arguments.output or RESULTS / f"speed-{slug(name)}{quick}.json"
    write_json(output, report)
    console.print(f"written: {output}", highlight=False, soft_wrap=True)
    return 0 if all(result["holds"] is not False for result in results) else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("what", nargs="?", default="training", choices=["training", "sampler"])
    parser.add_argument("--quick", action="store_true", help="under a minute on two cores")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--compile", default="auto", choices=["auto", "true", "false"])
    parser.add_argument(
        "--output", type=Path, help="JSON file (of sampler: folder); default benchmarks/results/"
    )
    return parser.parse_args()


def measure(
    quantity: Quantity, rounds: int, seconds: float, device: torch.device, peak: float
) -> dict[str, Any]:
    """Race the contenders of one quantity and judge it."""
    rates = race(quantity.contenders, rounds=rounds, seconds=seconds, device=device)
    found: dict[str, Any] = {}
    for name, by_round in rates.by_name.items():
        rate = rates.median(name)
        found[name] = {
            "rate": rate,
            "rates": by_round,
            "share_of_matrix_rate": rate * quantity.operations / peak,
        }
        if name != REFERENCE:
            ratios = rates.ratios(name, REFERENCE)
            found[name] |= {"ratio": median(ratios), "ratios": ratios}
    verdict, holds = judge(quantity, found)
    return {
        "quantity": quantity.key,
        "unit": quantity.unit,
        "operations_per_unit": quantity.operations,
        "contenders": found,
        "verdict": verdict,
        "holds": holds,
    }


def judge(quantity: Quantity, found: dict[str, Any]) -> tuple[str, bool | None]:
    """Hold the paired median ratio against what is required."""
    if quantity.required is None:
        return "nothing required", None
    name, least = quantity.required
    if name not in found:
        return f"{name} was not measured", None
    ratio = found[name]["ratio"]
    wanted_ratio = f"{name} >= {least:g}x"
    if ratio >= least:
        return f"{wanted_ratio}: yes", True
    if ratio >= least * (1 - quantity.allowance):
        return f"{wanted_ratio}: within noise ({quantity.allowance:.0%})", True
    return f"{wanted_ratio}: NO", False


def table(report: dict[str, Any]) -> Table:
    """One row per quantity and contender of ours."""
    hardware = report["hardware"]
    peak = report["float32_matrix_product_flops"] / 1e9
    shown = Table(
        title=f"{hardware['gpu'] or hardware['cpu']}, {hardware['threads']} threads, float32 "
        f"matrix products at {peak:,.0f} GFLOP/s",
        title_justify="left",
    )
    for column in (
        "per second",
        "reference",
        "ours",
        "ratio (min-max)",
        "share of matrix rate, ref | ours",
        "required",
    ):
        shown.add_column(column, justify="left" if column == "per second" else "right")
    for result in report["results"]:
        reference = result["contenders"][REFERENCE]
        for name, ours in result["contenders"].items():
            if name == REFERENCE:
                continue
            shown.add_row(
                f"{result['quantity']} ({name})",
                f"{reference['rate']:,.0f}",
                f"{ours['rate']:,.0f}",
                f"{ours['ratio']:.2f} ({min(ours['ratios']):.2f}-{max(ours['ratios']):.2f})",
                f"{reference['share_of_matrix_rate']:.1%} | {ours['share_of_matrix_rate']:.1%}",
                result["verdict"],
            )
    return shown


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
