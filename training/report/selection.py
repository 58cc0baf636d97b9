"""Score of a policy chosen by evaluating a few of many in the true environment.

The protocol of arXiv:2504.11453: policies of one method, trained with several settings and seeds,
are the arms of a bandit; each pull evaluates one of them for one episode.
"""

from collections import defaultdict

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from reverie.mistake import Mistake
from reverie.training.report.figures import Painter
from reverie.training.report.groups import Tasks
from reverie.training.report.page import Picture, Section, Table, Text
from reverie.training.report.tables import interval
from reverie.training.results import statistics
from reverie.training.results.statistics import CURVE_REPLICATES, Interval, bootstrap

PULLS, SUBSET, REPEATS = 200, 8, 500
"""Evaluations that may be spent, policies at hand, and bandits averaged."""
_PULLS_SHOWN = (1, 10, 50, PULLS)
_PULLS_DRAWN = sorted({*_PULLS_SHOWN, 2, 3, 5, 7, 15, 20, 30, 75, 100, 150})
EXPLORATION = 2.0
"""alpha of the upper confidence bound, for scores between 0 and 100."""
_UNTRIED = 1e-9
"""Added to the pulls of an arm, so that an arm without any has a huge bonus."""


def selected_scores(
    scores: Float[ndarray, "policies episodes"],
    *,
    pulls: int = PULLS,
    subset: int = SUBSET,
    repeats: int = REPEATS,
    exploration: float = EXPLORATION,
    seed: int = 0,
) -> Float[ndarray, "repeats pulls"]:
    """True mean score of the policy that a UCB bandit holds for the best, after each pull.

    Pull t = 1, 2, ... takes the arm with the largest mean_i + sqrt(alpha ln(t) / n_i), ties broken
    by chance, and sees one episode of it drawn from those recorded. Averaged over repeats, the
    entry at t is the score to expect of a method whose user can afford t online episodes; at
    t = 1 it is a policy at random.

    Args:
        scores: of single episodes of finished policies.
        pulls: episodes that may be spent.
        subset: policies that each repeat draws without replacement; all, if there are fewer.
        repeats: independent bandits.
        exploration: alpha.
        seed: of everything drawn.

    Raises:
        Mistake: fewer than two policies, or a score that is not finite.

    Differs: only arms that were pulled may be held for the best, so that an offset of all scores
    changes nothing; the original starts from means of zero, which favours untried arms where scores
    are negative.
    """
    if len(scores) < 2 or not np.isfinite(scores).all():
        raise Mistake(
            f"choosing among {len(scores)} policies is no choice, or a score is not finite; give "
            "finite scores of at least two"
        )
    rng = np.random.default_rng(seed)
    subset, every = min(subset, len(scores)), np.arange(repeats)
    arms = rng.random((repeats, len(scores))).argsort(1)[:, :subset]  # policies at hand
    truth = scores.mean(1)
    total, count = np.zeros((repeats, subset)), np.zeros((repeats, subset))
    held = np.empty((repeats, pulls))
    for pull in range(pulls):
        means = total / np.maximum(count, 1)
        bound = means + np.sqrt(exploration * np.log(pull + 1) / (count + _UNTRIED))
        chosen = _largest(bound, rng)
        episode = rng.integers(0, scores.shape[1], repeats)
        total[every, chosen] += scores[arms[every, chosen], episode]
        count[every, chosen] += 1
        tried = np.where(count > 0, total / np.maximum(count, 1), -np.inf)
        held[:, pull] = truth[arms[every, _largest(tried, rng)]]
    return held


def _largest(
    values: Float[ndarray, "repeats arms"], rng: np.random.Generator
) -> Int[ndarray, " repeats"]:
    """Index of the largest value of each row, one of them by chance where several are."""
    best = values == values.max(1, keepdims=True)
    return np.where(best, rng.random(values.shape), -1.0).argmax(1)


def selection(tasks: Tasks, painter: Painter) -> list[Section]:
    """What a method's policies are worth to somebody who can evaluate few of them."""
    section = Section("Choosing a policy with few evaluations")
    for task, groups in tasks.items():
        pools: dict[str, list[list[float]]] = defaultdict(list)
        for group in groups:
            for run in group.runs:
                # Of episodes without a finite score nobody can say what choosing them gives.
                scores = run.evaluation.get("scores") or []
                pools[run.summary["name"]] += [own for own in scores if own and None not in own]
        found, rows = {}, []
        for name, pool in pools.items():
            if len(pool) < 2:
                continue
            episodes = min(map(len, pool))
            held = selected_scores(np.array([policy[:episodes] for policy in pool], float))
            held = held[:, [pull - 1 for pull in _PULLS_DRAWN]]
            found[name] = bootstrap(statistics.task_means, held, replicates=CURVE_REPLICATES)
            curve = found[name]
            shown = [
                interval(Interval(curve.estimate[at], curve.low[at], curve.high[at]))
                for at in map(_PULLS_DRAWN.index, _PULLS_SHOWN)
            ]
            rows.append([name, str(len(pool)), str(episodes), *shown])
        if found:
            header = [
                "method",
                "policies",
                "episodes of each",
                *(f"pulls: {p}" for p in _PULLS_SHOWN),
            ]
            section.blocks.append(Table(header, rows, f"{task}: normalised score of the choice"))
            caption = f"{task}: score of the chosen policy by episodes spent"
            section.blocks.append(Picture(painter.selection(task, _PULLS_DRAWN, found), caption))
    if not section.blocks:
        return []
    text = (
        "Policies of all settings and seeds of a method are arms of a UCB bandit that spends up to "
        f"{PULLS} of the episodes in evaluation.json; at one pull it is a random policy. Each "
        f"repeat has at most {SUBSET} policies at hand. Intervals are over repeats of the bandit, "
        "not over training."
    )
    return [Section(section.title, [Text(text), *section.blocks])]
