"""Does the policy that looks best beat a blind choice? Two lines that four fits left undecided.

`off_policy_evaluation` compares hopper's regret@1 with that of a blind choice over four fits that
judge one set of policies. The plan of this run, written before it:

- Variance, from the recorded file: regrets of the four fits are 0.92, 0.09, 0.09, 0 by the value
  of model rollouts (mean 0.27, deviation 0.43) and 0.85, 0.98, 0.61, 0.09 by fitted Q evaluation
  (0.63, 0.39; those fits had no `offset_rate` yet). The lines failed for want of fits. Regrets lie
  in [0, 1], far from symmetric.
- Effect: a blind choice has 0.71 in the recorded set, so 0.44 and 0.08.
- Seeds: one new set of sixteen policies, on a seed that nothing was tuned on, and twelve new models
  that judge it; policies, models and budgets as in `HOPPER`. The line is about this set.
- Rule: after each fit `betting` stakes 0.8 of what may be lost on (blind choice - regret), and the
  reverse, and decides at a capital of 40 (2.5 % a side: error 5 % of each line, two-sided).
- Power, resampling the recorded regrets: 0.90 for the value of model rollouts, 4 core-minutes.
  Fitted Q evaluation is not run: with stakes of 0.25, 250 fits would decide it with probability
  0.9, 35 core-minutes, which were not to be had. It stays open, and that budget is its line.
- First planned were eight sets of two fits each, 16 core-minutes, because fits of one set say
  nothing of another. That run was stopped in its first set, before any regret was known: the
  machine was too busy for it. What sets differ by therefore stays unmeasured.
- The recorded lines and their threshold stay as they are.

What came of it: neither line was decided. The new policies differ from the recorded ones by more
than fits do: a regret of 0.78 by value and 0.69 by return where a blind choice has 0.78. Eleven of
twelve models prefer the same few policies by value, whose true returns are 195 to 429 of 1,741, so
more fits of one set would not help. By resampling both sets, 30 sets of two fits would decide the
value with probability 0.9, 50 core-minutes, and 15 sets the return. Two sets tell little of how
sets differ, so these are rough. The recorded lines say so; of another run's sets they would not be
true, so its lines leave it out.
"""

from dataclasses import replace

import numpy as np
import torch
from matplotlib.figure import Figure

from reverie.benchmarks.claims.betting import Bets, bet
from reverie.benchmarks.claims.off_policy_evaluation import graded_policies
from reverie.benchmarks.claims.off_policy_evaluation.__main__ import METHODS, shorten
from reverie.benchmarks.claims.off_policy_evaluation.graded_policies import HOPPER, Found
from reverie.benchmarks.claims.report import Claim, Findings, run_command

NAME = "policy_choice"
TITLE = "Regret of choosing one of sixteen policies, against a blind choice: new policies, new fits"
FITS, SEED = 12, 21_000
SHARE, ERROR = 0.8, 0.05
MEASURED = ("model/value", "model/return")
TASK = replace(HOPPER, fits=FITS, fqe_updates=0)
FQE = "fqe/value"


def measure(quick: bool) -> Findings:
    """Train the policies, then judge them by every model."""
    torch.set_num_threads(1)
    task = replace(shorten(TASK), fqe_updates=0) if quick else TASK
    found = graded_policies.measure(task, SEED)
    return Findings(
        [*(claim(found, method, judge=not quick) for method in MEASURED), open_claim()],
        {
            "plan": {"share": SHARE, "error": ERROR, "fits": task.fits, "seed": SEED},
            "budget": vars(task.budget),
            "model": task.model,
            "set": vars(found),
            "blind": graded_policies.random_regret(found.truth["return"]),
            "regrets": {method: regrets(found, method) for method in MEASURED},
            "capitals": {method: vars(bets(found, method)) for method in MEASURED},
        },
        {NAME: plot(found)},
    )


def regrets(found: Found, method: str) -> list[float]:
    """A number a fit."""
    return graded_policies.regret(found.estimates[method], found.truth["return"])


def bets(found: Found, method: str) -> Bets:
    """On a regret below that of a blind choice, and on one above it."""
    own, blind = regrets(found, method), graded_policies.random_regret(found.truth["return"])
    lows, highs = [blind - 1.0] * len(own), [blind] * len(own)
    return bet([blind - each for each in own], lows, highs, SHARE, ERROR)


def claim(found: Found, method: str, judge: bool) -> Claim:
    """One line; an undecided one is open."""
    own, capitals = regrets(found, method), bets(found, method)
    blind = graded_policies.random_regret(found.truth["return"])
    return Claim(
        text(method),
        f"bets on it reach a capital of {capitals.enough:g} (the reverse ones decide against it)",
        f"{np.mean(own):.3g} against {blind:.3g}, {len(own)} fits: "
        f"{', '.join(f'{each:.2g}' for each in own)}; capital at most {max(capitals.better):.3g}, "
        f"of the reverse {max(capitals.worse):.2g}",
        capitals.verdict if judge else None,
    )


def open_claim() -> Claim:
    """What fitted Q evaluation would need."""
    needed = "for the recorded policies some 250 fits, 35 core-minutes, would decide it"
    return Claim(text(FQE), "-", f"not run: {needed}", None)


def text(method: str) -> str:
    """What a line says."""
    return f"hopper, {METHODS[method]}: regret@1 of choosing by it is below that of a blind choice"


def plot(found: Found) -> Figure:
    """Left: regrets of the fits beside a blind choice. Right: capitals."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, method in enumerate(MEASURED):
        own = regrets(found, method)
        turns = np.arange(1, len(own) + 1)
        left.plot(turns + 0.2 * number, own, "o", label=METHODS[method])
        right.plot(turns, bets(found, method).better, "o-", label=METHODS[method])
    blind = graded_policies.random_regret(found.truth["return"])
    left.axhline(blind, color="0.4", ls="--", label="blind choice")
    left.set(xlabel="fit", ylabel="regret@1, share of the range", title="hopper")
    right.axhline(2 / ERROR, color="0.4", ls="--", label="enough")
    right.set(xlabel="fits", ylabel="capital", yscale="log", title="bets on less regret")
    for ax in (left, right):
        ax.grid(alpha=0.3)
        ax.legend(fontsize=7)
    return figure


if __name__ == "__main__":
    run_command(NAME, TITLE, __doc__, measure)
