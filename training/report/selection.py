"""Score of a policy chosen by evaluating a few of many in the true environment.

The protocol of arXiv:2504.11453: policies of one method, trained with several settings and seeds,
are the arms of a bandit; each pull evaluates one of them for one episode.
"""

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from reverie.mistake import Mistake

PULLS, SUBSET, REPEATS = 200, 8, 500
"""Evaluations that may be spent, policies at hand, and bandits averaged."""
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
