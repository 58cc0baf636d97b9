"""Does the policy that looks best beat a blind choice? Two lines that four fits left undecided.

`off_policy_evaluation` compares hopper's regret@1 with that of a blind choice over four fits that
judge one set of policies. The plan of this run, written before it:

- Variance, from the recorded file: regrets of the four fits are 0.92, 0.09, 0.09, 0 by the value
  of model rollouts (mean 0.27, deviation 0.43) and 0.85, 0.98, 0.61, 0.09 by fitted Q evaluation
  (0.63, 0.39; those fits had no `offset_rate` yet). The lines failed for want of fits. Regrets lie
  in [0, 1], far from symmetric, and fits of one set of policies say nothing of another set.
- Effect: a blind choice has 0.71 in the recorded set, so 0.44 and 0.08.
- Seeds: every repetition is a new set of sixteen policies, on seeds that nothing was tuned on, with
  two fits whose regrets are averaged; policies, models, critics and budgets as in `HOPPER`.
- Rule: after each set `betting` stakes 0.8 of what may be lost on (blind choice - regret), and the
  reverse, and decides at a capital of 40 (2.5 % a side: error 5 % of each line, two-sided). The run
  ends after `SETS` sets, or when the value of model rollouts is decided.
- Power, resampling the recorded regrets: 0.92 for model rollouts in eight sets (16 core-minutes),
  less where sets differ from each other, of which no record tells. For fitted Q evaluation it is
  0.03: 0.97 would take some 200 sets at a share of 0.5, 7 core-hours, which were not to be had.
- An undecided line stays open; the recorded lines and their threshold stay as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from reverie.benchmarks.claims.betting import Bets, bet
from reverie.benchmarks.claims.off_policy_evaluation import graded_policies
from reverie.benchmarks.claims.off_policy_evaluation.__main__ import METHODS, shorten
from reverie.benchmarks.claims.off_policy_evaluation.graded_policies import HOPPER, Found
from reverie.benchmarks.claims.report import Claim, Findings, run_command

NAME = "policy_choice"
TITLE = "Regret of choosing one of sixteen policies, against a blind choice: new sets of policies"
SETS, FITS = 8, 2
SHARE, ERROR = 0.8, 0.05
FIRST_SEED, SEED_STEP = 21_000, 1_000
"""A set uses seeds up to 200 above its own, and 10,000 above for its true episodes."""
PRIMARY = "model/value"
"""The line that ends the run."""
TASK = replace(HOPPER, fits=FITS)


def measure(quick: bool) -> Findings:
    """One set after the other, until the rule says stop."""
    torch.set_num_threads(1)
    task, sets = (shorten(TASK), 1) if quick else (TASK, SETS)
    found: list[Found] = []
    for turn in range(sets):
        found.append(graded_policies.measure(task, FIRST_SEED + SEED_STEP * turn))
        capitals = bets(found, PRIMARY)
        print(f"set {turn + 1} of {sets}: capital {capitals.better[-1]:.3g}", flush=True)
        if capitals.verdict is not None:
            break
    return Findings(
        [claim(found, method, judge=not quick) for method in METHODS],
        {
            "plan": {"share": SHARE, "error": ERROR, "sets": sets, "fits": FITS},
            "seeds": [FIRST_SEED + SEED_STEP * turn for turn in range(len(found))],
            "sets": [details(each) for each in found],
            "capitals": {method: vars(bets(found, method)) for method in METHODS},
        },
        {NAME: plot(found)},
    )


def blind_regrets(found: Sequence[Found]) -> list[float]:
    """What a blind choice would cost in each set."""
    return [graded_policies.random_regret(each.truth["return"]) for each in found]


def regrets(found: Sequence[Found], method: str) -> list[float]:
    """Mean of the fits' regrets, a number a set."""
    return [
        float(np.mean(graded_policies.regret(each.estimates[method], each.truth["return"])))
        for each in found
    ]


def bets(found: Sequence[Found], method: str) -> Bets:
    """On a regret below that of a blind choice, and on one above it."""
    blind = blind_regrets(found)
    gains = [each - own for each, own in zip(blind, regrets(found, method), strict=True)]
    return bet(gains, [each - 1 for each in blind], blind, SHARE, ERROR)


def claim(found: Sequence[Found], method: str, judge: bool) -> Claim:
    """One line; undecided lines are open."""
    own, capitals = regrets(found, method), bets(found, method)
    return Claim(
        f"hopper, {METHODS[method]}: regret@1 of choosing by it is below that of a blind choice",
        f"capital of bets on it at least {capitals.enough:g} (the reverse decides against it)",
        f"{np.mean(own):.3g} against {np.mean(blind_regrets(found)):.3g} in {len(own)} sets of "
        f"policies ({', '.join(f'{each:.2g}' for each in own)}); capital "
        f"{capitals.better[-1]:.3g}, of the reverse {capitals.worse[-1]:.2g}",
        capitals.verdict if judge else None,
    )


def details(found: Found) -> Mapping[str, Any]:
    """Estimates and truth of one set."""
    names = ("names", "estimates", "truth", "standard_errors", "fingerprint", "outside")
    return {name: getattr(found, name) for name in names}


def plot(found: Sequence[Found]) -> Figure:
    """Left: regrets a set beside the blind choice. Right: capitals."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    turns = np.arange(1, len(found) + 1)
    for number, (method, title) in enumerate(METHODS.items()):
        left.plot(turns + 0.1 * (number - 1), regrets(found, method), "o", label=title)
        right.plot(turns, bets(found, method).better, "o-", label=title)
    left.plot(turns, blind_regrets(found), "k_", ms=14, label="blind choice")
    left.set(xlabel="set of policies", ylabel="regret@1, share of the range", title="hopper")
    right.axhline(2 / ERROR, color="0.4", ls="--", label="enough")
    right.set(
        xlabel="sets of policies", ylabel="capital", yscale="log", title="bets on less regret"
    )
    for ax in (left, right):
        ax.set_xticks(turns)
        ax.grid(alpha=0.3)
        ax.legend(fontsize=7)
    return figure


if __name__ == "__main__":
    run_command(NAME, TITLE, __doc__, measure)
