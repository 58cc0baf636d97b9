"""What was measured, judged: a verdict for each quantity, a table and a picture."""

from collections.abc import Mapping
from statistics import median
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from reverie.benchmarks.speed.quantities import Quantity
from reverie.benchmarks.speed.timing import Rates

COLUMNS = ("per second", "baseline", "ours", "ratio (min-max)", "share of matrix rate", "required")


def judged(quantity: Quantity, rates: Rates, peak: float) -> dict[str, Any]:
    """Rates, ratios and shares of the contenders of one quantity, and the verdict."""
    found: dict[str, Any] = {}
    for name, by_round in rates.by_name.items():
        rate = rates.median(name)
        found[name] = {
            "rate": rate,
            "rates": by_round,
            "share_of_matrix_rate": rate * quantity.operations / peak,
        }
        if name != quantity.baseline:
            ratios = rates.ratios(name, quantity.baseline)
            found[name] |= {"ratio": median(ratios), "ratios": ratios}
    verdict, holds = judge(quantity, found)
    return {
        "quantity": quantity.key,
        "unit": quantity.unit,
        "baseline": quantity.baseline,
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


def table(report: Mapping[str, Any]) -> Table:
    """One row per quantity and contender of ours."""
    hardware = report["hardware"]
    peak = report["float32_matrix_product_flops"] / 1e9
    shown = Table(
        title=f"{hardware['gpu'] or hardware['cpu']}, {hardware['threads']} threads, float32 "
        f"matrix products at {peak:,.0f} GFLOP/s",
        title_justify="left",
    )
    for column in COLUMNS:
        shown.add_column(column, justify="left" if column == COLUMNS[0] else "right")
    for result in report["results"]:
        baseline = result["contenders"][result["baseline"]]
        alone = len(result["contenders"]) == 1
        for name, ours in result["contenders"].items():
            if name == result["baseline"] and not alone:
                continue
            ratio = "-"
            if not alone:
                low, high = min(ours["ratios"]), max(ours["ratios"])
                ratio = f"{ours['ratio']:.2f} ({low:.2f}-{high:.2f})"
            shares = [each["share_of_matrix_rate"] for each in (baseline, ours)]
            shown.add_row(
                f"{result['quantity']} ({name})",
                "-" if alone else f"{baseline['rate']:,.1f}",
                f"{ours['rate']:,.1f}",
                ratio,
                " | ".join(f"{share:.1%}" for share in (shares[1:] if alone else shares)),
                result["verdict"],
            )
    return shown


def figure(report: Mapping[str, Any]) -> Figure:
    """Share of the machine's matrix rate of every contender, quantity by quantity."""
    results = report["results"]
    drawn = Figure(figsize=(9, 1 + 0.45 * len(results)), layout="constrained")
    ax = drawn.subplots()
    names = list(dict.fromkeys(name for each in results for name in each["contenders"]))
    thickness = 0.8 / max(len(each["contenders"]) for each in results)
    for number, name in enumerate(names):
        places, shares = [], []
        for place, each in enumerate(results):
            if name in each["contenders"]:
                order = list(each["contenders"]).index(name)
                places.append(place + (order + 0.5) * thickness - 0.4)
                shares.append(100 * each["contenders"][name]["share_of_matrix_rate"])
        ax.barh(places, shares, thickness, label=name, color=f"C{number}")
    ax.set_yticks(range(len(results)), [each["quantity"] for each in results], fontsize=8)
    ax.invert_yaxis()
    ax.set_xlabel("percent of the machine's rate of float32 matrix products")
    ax.legend(fontsize=8)
    return drawn
