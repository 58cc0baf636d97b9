"""The tables and the picture of a leaderboard, from its records."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from numpy import ndarray

from reverie.benchmarks.claims.comparison import Record, Recorded, tabulate
from reverie.benchmarks.claims.growing import Records
from reverie.benchmarks.claims.report import Claim
from reverie.benchmarks.leaderboard.rounds import Board, batches_of, join, seed_returns
from reverie.training.results import statistics
from reverie.training.results.statistics import CURVE_REPLICATES, Interval, bootstrap

Scores = dict[str, Float[ndarray, "runs tasks"]]
"""By method."""
KINDS = {
    "IQM": statistics.interquartile_mean,
    "median": statistics.median,
    "mean": statistics.mean,
    "optimality gap": statistics.optimality_gap,
}
BEHAVIOUR = "recorded behaviour"


def scores_of(records: Records, methods: Sequence[str]) -> tuple[list[str], Scores]:
    """Normalised scores on the datasets on which every method came to its end.

    A dataset counts that has returns of 0 and 100, and where no method is missing that is anywhere
    else; a method that diverged on every one of them is left out first.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for method in methods:
        for task, arms in records.items():
            own = batches_of(arms, method)
            if own and own[0].get("reference") and not any(each["stopped"] for each in own):
                low, high = own[0]["reference"]
                scores = [100 * (value - low) / (high - low) for value in seed_returns(own)]
                found.setdefault(method, {})[task] = scores
    shared = [task for task in records if found and all(task in own for own in found.values())]
    if not shared:
        return [], {}
    return shared, {m: statistics.columns([own[t] for t in shared]) for m, own in found.items()}


def aggregate(records: Records, board: Board, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Over datasets: IQM and its kin, and how likely a method beats the yardstick; best IQM first.

    Args:
        seconds: of a core, by method.
    """
    shared, scores = scores_of(records, board.methods)
    ranked = sorted(scores, key=lambda method: -float(KINDS["IQM"](scores[method])))
    rows = []
    for method in ranked:
        beats = "-"
        if board.against in scores and method != board.against:
            pair = (scores[method], scores[board.against])
            improvement = statistics.probability_of_improvement
            beats = _told(bootstrap(improvement, *pair, replicates=CURVE_REPLICATES), 2)
        cells = [_told(bootstrap(kind, scores[method])) for kind in KINDS.values()]
        runs = str(int(np.isfinite(scores[method]).sum()))
        rows.append([method, *cells, beats, runs, f"{seconds[method] / 60:.0f}"])
    absent = [method for method in board.methods if method not in scores]
    caption = (
        f"Normalised scores over {len(shared)} datasets on which every method came to its end"
        f"{': ' + ', '.join(shared) if shared else ''}, with 95 % bootstrap intervals, resampled "
        "within datasets; minutes are of one core, of all datasets"
        f"{'; not among them: ' + ', '.join(absent) if absent else ''}"
    )
    header = ["method", *KINDS, f"P(above {board.against})", "runs", "minutes"]
    return {"caption": caption, "header": header, "rows": rows}


def _told(found: Interval, digits: int = 1) -> str:
    if np.isnan(found.low):
        return f"{found.estimate:.{digits}f}"
    return f"{found.estimate:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def tables(
    records: Records, recorded: Mapping[str, Recorded], board: Board, unsuited: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One a dataset: returns, what is decided, what the verdict of each run had promised."""
    found = []
    for task, own in join(records, board.methods).items():
        cpus = ", ".join(sorted({record["cpu"] for record in own.values()}))
        notes = [f"on {cpus}", *(f"without {m}, {why}" for m, why in unsuited[task].items())]
        shown = tabulate(task, own, recorded[task], notes=notes, behaviour_row=BEHAVIOUR)
        shown["header"] += ["seeds", f"less {board.against}", "verdicts", "promised", "came"]
        for row in shown["rows"]:
            if row[0] not in own:
                row += ["-"] * 5
                continue
            decided = board.decide(records[task], row[0])
            row += [
                str(len(own[row[0]]["returns"])),
                "-" if decided is None else str(decided),
                *promised(batches_of(records[task], row[0]), recorded[task]),
            ]
        found.append(shown)
    return found


def promised(batches: Sequence[Record], recorded: Recorded) -> list[str]:
    """Outcomes of the verdicts of a method's runs; fitted Q evaluation's gain; the true gain.

    Gains are over what was recorded: of discounted values, as a share of the recorded value's
    size, as is meant by a verdict; and of returns in the true environment.
    """
    done = [record for record in batches if not record["stopped"]]
    outcomes = [outcome for record in done for outcome in record["outcome"]]
    counts = {word: outcomes.count(word) for word in dict.fromkeys(outcomes)}
    gains = [
        (value - record["promised"]["recorded"][0]) / abs(record["promised"]["recorded"][0])
        for record in done
        if record["promised"].get("fqe") and record["promised"]["recorded"][0]
        for value, *_ in record["promised"]["fqe"]
    ]
    came = [(each - recorded.mean) / abs(recorded.mean) for each in seed_returns(done)]
    return [
        ", ".join(f"{word} {count}" for word, count in counts.items()) or "-",
        f"{np.mean(gains):+.0%}" if gains else "-",
        f"{np.mean(came):+.0%}" if came and recorded.mean else "-",
    ]


def claims(
    records: Records, recorded: Mapping[str, Recorded], board: Board, missing: Sequence[str]
) -> list[Claim]:
    """Lines that inform: what is decided, whether verdicts were right, what is missing."""
    lines = []
    for task, own in records.items():
        decided = {m: board.decide(own, m) for m in board.methods if f"{m}/0" in own}
        words = {
            word: [m for m, each in decided.items() if each is not None and each.better is answer]
            for word, answer in (("better", True), ("worse", False), ("undecided", None))
        }
        lines.append(
            Claim(
                f"{task}: methods compared with {board.against}, any error at most "
                f"{board.plan.error:.0%}",
                "-",
                "; ".join(f"{word}: {', '.join(those) or '-'}" for word, those in words.items()),
                None,
                "ours",
            )
        )
    for word, above in (("better", True), ("worse", False)):
        right = [
            (value > recorded[task].mean) is above
            for task, own in records.items()
            for record in own.values()
            if not record["stopped"]
            for outcome, value in zip(record["outcome"], seed_returns([record]), strict=True)
            if outcome == word
        ]
        told = f"{np.mean(right):.0%} of {len(right)}" if right else "none"
        text = f"policies that a verdict calls {word} than what was recorded: truly so"
        lines.append(Claim(text, "at least 90 %", told, None, "ours"))
    absent = "; ".join(missing) or "none"
    return [*lines, Claim("not trained", "none", absent, None, "ours")]


def plot(scores: Scores) -> Figure:
    """Performance profiles: the share of runs above each score, with its interval."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    ax = figure.add_subplot()
    if scores:
        every = np.concatenate([own[np.isfinite(own)] for own in scores.values()])
        at = np.linspace(min(0.0, every.min()), max(100.0, every.max()), 101)
        for index, (method, own) in enumerate(scores.items()):
            found = bootstrap(
                lambda table: statistics.performance_profile(table, at),
                own,
                replicates=CURVE_REPLICATES,
            )
            style: dict[str, Any] = {
                "color": f"C{index % 10}",
                "ls": ("-", "--", ":", "-.")[index // 10],
            }
            ax.plot(at, found.estimate, label=method, **style)
            ax.fill_between(at, found.low, found.high, color=style["color"], alpha=0.12, lw=0)
        ax.legend(fontsize=7, ncols=2)
    ax.set(xlabel="normalised score", ylabel="share of runs above it", ylim=(-0.02, 1.02))
    ax.grid(alpha=0.3)
    return figure
