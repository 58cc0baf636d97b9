"""What papers claim, in a sentence each, and which recorded lines answer.

A headline names the lines of one file of results on which it hangs. The first gives its number,
which is read from there and never typed.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reverie.benchmarks.claims.report import AFTER
from reverie.mistake import Mistake

VERDICTS = ("holds", "partly", "not shown")


@dataclass(frozen=True)
class Headline:
    """A claim of a paper.

    Attributes:
        method: its usual name.
        paper: its arXiv id.
        claim: in a sentence.
        benchmark: the file of results that answers, without its ending.
        lines: how the text of each line begins on which the verdict hangs; the first that begins so
            counts.
        number: a pattern in what was measured of the first line.
        ours: what is shown of it; `\\1` is the pattern's group.
        budget: what was spent; fields in braces are looked up in the file.
    """

    method: str
    paper: str
    claim: str
    benchmark: str
    lines: Sequence[str]
    number: str
    ours: str
    budget: str


@dataclass(frozen=True)
class Answer:
    """What the files say of a headline.

    Attributes:
        ours: its number, in words.
        verdict: one of `VERDICTS`: all of its lines hold, some do, or none.
        counts: of lines that hold, fail and are open.
        notes: on what was changed when results had been seen.
    """

    ours: str
    verdict: str
    counts: tuple[int, int, int]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        words = (("holds", "hold"), ("fails", "fail"), ("open", "open"))
        told = ", ".join(
            f"{count} {word[count > 1]}"
            for count, word in zip(self.counts, words, strict=True)
            if count
        )
        said = self.verdict if self.verdict == VERDICTS[0] else f"{self.verdict}: {told}"
        return "; ".join([said, *self.notes])


def answer(headline: Headline, found: Mapping[str, Any]) -> Answer:
    """What was measured, and what it says of the claim.

    Args:
        found: the file of results.

    Raises:
        Mistake: a line or the number is not in the file.
    """
    claims = [line_of(headline, found, start) for start in headline.lines]
    measured = claims[0]["measured"]
    match = re.search(headline.number, measured)
    if match is None:
        raise Mistake(
            f"{headline.benchmark}: no {headline.number!r} in {measured!r}; mend the headline of "
            f"{headline.method} in {__name__}"
        )
    verdicts = [claim["holds"] for claim in claims]
    counts = (verdicts.count(True), verdicts.count(False), verdicts.count(None))
    verdict = VERDICTS[0 if counts[0] == len(verdicts) else 1 if counts[0] else 2]
    sources = [claim["source"].partition(", ")[2] for claim in claims]
    notes = dict.fromkeys(note for note in sources if note.endswith(AFTER))
    return Answer(match.expand(headline.ours), verdict, counts, tuple(notes))


def line_of(headline: Headline, found: Mapping[str, Any], start: str) -> Mapping[str, Any]:
    """The first line of the file whose text begins so.

    Raises:
        Mistake: there is none.
    """
    for claim in found["claims"]:
        if claim["text"].startswith(start):
            return claim
    raise Mistake(
        f"{headline.benchmark}: no line begins with {start!r}; mend the headline of "
        f"{headline.method} in {__name__}"
    )


def spent(headline: Headline, found: Mapping[str, Any]) -> str:
    """The budget in words.

    Raises:
        Mistake: a field is not in the file.
    """
    try:
        return headline.budget.format_map(found)
    except (KeyError, TypeError) as error:
        raise Mistake(
            f"{headline.benchmark}: {error} of {headline.budget!r} is not in the file; mend the "
            f"headline of {headline.method} in {__name__}"
        ) from error


def status(headlines: Sequence[Headline], verdict: Callable[[Headline], str]) -> str:
    """The word of a method whose papers make these claims: `shown` where the first of each paper
    holds, `no gain` where nothing holds, else `partly`."""
    papers = {each.paper: verdict(each) for each in reversed(headlines)}
    if all(own == VERDICTS[0] for own in papers.values()):
        return "shown"
    return "no gain" if all(verdict(each) == VERDICTS[2] for each in headlines) else "partly"


HEADLINES = (
    Headline(
        "RAVL",
        "2402.12527",
        "Where rollouts end off the data, values explode even with the true dynamics; pessimism "
        "over an ensemble of critics cures it.",
        "edge_of_reach",
        (
            "plane, RAVL: the policy succeeds",
            "plane, base: values explode",
            "plane, RAVL: values stay attainable",
            "HalfCheetah: RAVL's policy is better",
        ),
        r"return (.+?), above in (.+)",
        r"toy task: return \1, succeeds in \2",
        "{plane[budget][seeds]} seeds, {plane[budget][updates]:,} updates; HalfCheetah "
        "{halfcheetah[budget][seeds]}, {halfcheetah[budget][updates]:,}",
    ),
    Headline(
        "MOREC",
        "2310.05422",
        "A learned reward that chooses among next states keeps rollouts near the truth, and helps "
        "MOPO.",
        "morec",
        (
            "refrigerator, set point -3 (unseen), acting in the model",
            "refrigerator, set point 12 (unseen), acting in the model",
            "hopper: filtered rollouts",
            "hopper: MOREC-MOPO beside MOPO",
            "halfcheetah: filtered rollouts",
            "halfcheetah: MOREC-MOPO beside MOPO",
        ),
        r"ratio (\S+) \((.+?) to (.+?)\)",
        r"unseen set point: error \1 times as large (\2 to \3)",
        "{refrigerator_budget[seeds]} seeds; Hopper and HalfCheetah {budget[seeds]}, "
        "{budget[updates]:,} updates",
    ),
    Headline(
        "SINDy-RL",
        "2403.09110",
        "Dyna in sparse equations needs far fewer steps of the environment than SAC.",
        "sindy_rl",
        (
            "pendulum: Dyna with E-SINDy reaches -200 in fewer steps than SAC",
            "swing-up: Dyna with E-SINDy reaches 150 in fewer steps than SAC",
        ),
        r"(\d+) times fewer",
        r"pendulum: \1 times fewer",
        "{tasks[pendulum][budget][seeds]} seeds, up to {tasks[pendulum][sac_updates]:,} updates of "
        "SAC; swing-up {tasks[swing-up][sac_updates]:,}",
    ),
    Headline(
        "SINDy-RL",
        "2403.09110",
        "A policy of a few terms is as good as its network, and 100 times smaller.",
        "sindy_rl",
        (
            "pendulum: it is orders of magnitude smaller",
            "pendulum: the distilled cubic is as good",
            "swing-up: it is orders of magnitude smaller",
            "swing-up: the distilled cubic is as good",
        ),
        r"(\d+) times",
        r"pendulum: \1 times smaller",
        "{tasks[pendulum][budget][seeds]} seeds",
    ),
    Headline(
        "H2O",
        "2206.13464",
        "Recorded data and a wrong simulator together give a better policy than either alone.",
        "h2o",
        (
            "pendulum: H2O is better than simulator-only SAC",
            "pendulum: H2O is better than offline-only CQL",
            "HalfCheetah: H2O is better than simulator-only SAC",
            "HalfCheetah: H2O is better than offline-only CQL",
        ),
        r"H2O (.+), simulator-only SAC (.+)",
        r"pendulum: return \1, simulator alone \2",
        "{pendulum[schedule][seeds]} seeds, {pendulum[schedule][updates]:,} updates; HalfCheetah "
        "{HalfCheetah[schedule][seeds]}, {HalfCheetah[schedule][updates]:,}",
    ),
    Headline(
        "H2O+",
        "2309.12716",
        "Targets that contain the value of recorded actions avoid H2O's over-conservatism.",
        "h2o",
        ("pendulum: h2o_plus in the true environment",),
        r"return (.+)",
        r"pendulum: return \1",
        "{pendulum[schedule][seeds]} seeds, {pendulum[schedule][updates]:,} updates",
    ),
    Headline(
        "Policy-guided diffusion",
        "2404.06356",
        "Guided segments are likelier under the policy and truer than a model's rollouts, and "
        "raise returns.",
        "policy_guided_diffusion",
        (
            "hopper: guided 4 segments are truer than rollouts",
            "hopper: guidance raises the likelihood",
            "pendulum: guided 4 segments are truer than rollouts",
            "hopper, td3_bc: guided segments are better than recorded data alone",
            "hopper, iql: guided segments are better than recorded data alone",
            "pendulum, td3_bc: guided segments are better than recorded data alone",
            "pendulum, iql: guided segments are better than recorded data alone",
        ),
        r"(.+) against (.+):",
        r"Hopper: error \1, ensemble \2",
        "{hopper[task][schedule][seeds]} seeds, {hopper[task][schedule][updates]:,} updates, fit "
        "{hopper[task][segments][steps]:,}",
    ),
    Headline(
        "SynthER",
        "2303.06614",
        "A policy trained on generated transitions is as good as on recorded ones.",
        "policy_guided_diffusion",
        (
            "hopper, td3_bc: SynthER's data are as good",
            "hopper, iql: SynthER's data are as good",
            "pendulum, td3_bc: SynthER's data are as good",
            "pendulum, iql: SynthER's data are as good",
        ),
        r"(.+) against ([^,]+)",
        r"Hopper, TD3+BC: return \1, recorded \2",
        "{hopper[task][schedule][seeds]} seeds, {hopper[task][schedule][updates]:,} updates, fit "
        "{hopper[task][transitions][steps]:,}",
    ),
    Headline(
        "Single model, Lipschitz value",
        "2302.01244",
        "One model reaches an ensemble where the critics are smooth.",
        "lipschitz",
        (
            "offline, pendulum: single + spectral reaches the ensemble",
            "offline, pendulum: single + adversarial reaches the ensemble",
            "online, pendulum: single + spectral reaches the ensemble",
            "online, hopper: single + spectral reaches the ensemble",
            "online, hopper: a single model without regularisation falls short",
        ),
        r": (.+), reaches it",
        r"pendulum, offline: return higher by \1",
        "{offline, pendulum[budget][seeds]} seeds, {offline, pendulum[budget][updates]:,} updates; "
        "Hopper {online, hopper[budget][updates]:,}",
    ),
    Headline(
        "Planning in an ensemble",
        "1805.12114",
        "Planning in a fitted model, with no policy trained, does as well as a policy.",
        "planning",
        (
            "swing-up: plans, beside MOPO's policy",
            "two-tanks: plans, beside MOPO's policy",
            "pendulum: plans, beside MOPO's policy",
            "hopper: plans, beside MOPO's policy",
            "pendulum, MPPI in an ensemble fitted to mixed data",
        ),
        r"(\S+) \((.+?), (.+?)\) against (\S+)",
        r"swing-up: score \1 (seeds \2 and \3), MOPO \4",
        "2 seeds",
    ),
    Headline(
        "NEUBAY",
        "2512.04341",
        "Long rollouts without a penalty do as well as short ones with it.",
        "long_rollouts",
        (
            "pendulum: NEUBAY, no penalty, against MOPO",
            "pendulum: NEUBAY, no penalty, against RAVL",
            "pendulum, NEUBAY: rollouts go far",
            "plane, neubay, 30 steps: the policy succeeds",
        ),
        r"\((.+?)\) against \S+ \((.+?)\)",
        r"pendulum: score \1, MOPO \2",
        "{budgets[pendulum][seeds]} seeds, {budgets[pendulum][updates]:,} updates",
    ),
    Headline(
        "Generalised teacher forcing",
        "2306.04406",
        "A model forced a little while it trains sees further ahead on noisy data.",
        "forecasting",
        (
            "cart-pole, noisy: 32 steps of the forced ensemble",
            "pendulum, noisy: 32 steps of the forced ensemble",
            "Lorenz, noise of 30 %",
        ),
        r"(\S+) and (\S+) times",
        r"cart-pole: error \1 and \2 times as large (two seeds)",
        "2 seeds; Lorenz {runs[Lorenz][0.2][updates]:,} updates",
    ),
    Headline(
        "Almost-linear RNN",
        "2410.14240",
        "Two units that bend are enough for the attractor of Lorenz, and one is not.",
        "second_ring-almost_linear",
        ("Lorenz, D_stsp by the count of units that bend",),
        r"2: (.+?), 5",
        r"two units: D_stsp \1",
        "{seeds} seeds, {epochs_of_windows} epochs",
    ),
    Headline(
        "Neural ODE",
        "1806.07366",
        "A model in continuous time needs no resampling of an irregular log.",
        "second_ring-neural_ode",
        (
            "irregular pendulum, error after 20 nominal steps",
            "the same against the ensemble on the table resampled",
        ),
        r"(.+) against (.+)",
        r"error \1, ensemble that ignores durations \2",
        "{seeds} seeds, {pendulum[epochs]} epochs",
    ),
    Headline(
        "Local regularisation",
        "2303.02262",
        "A solver's local error in the loss saves evaluations at equal error.",
        "second_ring-neural_ode",
        ("cubic oscillator, local error in the loss with weight 1 or 10",),
        r"(\S+) and \S+?,",
        r"\1 times the evaluations",
        "{seeds} seeds, {oscillator[updates]:,} updates",
    ),
    Headline(
        "Analytic policy gradient",
        "2403.13851",
        "Backpropagation through a learned model trains a controller for the true system.",
        "second_ring-analytic_gradient",
        (
            "culls learned in an ensemble",
            "culls learned in equations",
            "linear system: cost",
            "pendulum, equations of 2,000 random rows: return",
        ),
        r"(.+) against (.+)",
        r"predators, model an ensemble: return \1, no control \2",
        "{seeds} seeds, {budgets[culls][updates]:,} updates; pendulum "
        "{budgets[pendulum, equations][updates]:,}",
    ),
    Headline(
        "Demonstration-regularised RL",
        "2310.17303",
        "Near a clone of demonstrations, a scarce model gives a better policy.",
        "second_ring-demonstrations",
        (
            "40 finite tasks, model of 1 samples, 100 demonstrations",
            "40 finite tasks, model of 3 samples, 100 demonstrations",
            "pendulum, the best tenth: good demonstrations help",
        ),
        r"plain (.+), clone (.+), near the clone (.+)",
        r"finite tasks: missing value \3, without demonstrations \1",
        "40 tasks; pendulum {run[seeds]} seeds, {updates:,} updates",
    ),
    Headline(
        "SS-ORL",
        "2210.06518",
        "A log that holds a tenth of its actions is nearly as good as a whole one.",
        "second_ring-missing_actions",
        (
            "pendulum, TD3+BC: a tenth and proposals above a tenth alone",
            "pendulum, TD3+BC: a tenth and proposals nearly as good",
        ),
        r"a tenth and proposals (.+), all recorded (.+)",
        r"score \1, all actions recorded \2",
        "{run[seeds]} seeds, {updates:,} updates",
    ),
    Headline(
        "ReBRAC",
        "2305.09836",
        "Layer normalisation, depth and two penalties make TD3+BC better.",
        "baselines",
        ("pendulum: ReBRAC is no worse than TD3+BC", "hopper: ReBRAC is no worse than TD3+BC"),
        r"difference (.+)",
        r"pendulum: return higher by \1",
        "{budget[seeds]} seeds, {budget[updates]:,} updates",
    ),
    Headline(
        "10 % BC",
        "2106.01345",
        "Cloning the best tenth of mixed data beats cloning all of it.",
        "baselines",
        ("pendulum: cloning the best tenth", "hopper: cloning the best tenth"),
        r"difference (.+)",
        r"pendulum: return higher by \1",
        "{budget[seeds]} seeds, {budget[updates]:,} updates",
    ),
    Headline(
        "EDM samplers",
        "2206.00364",
        "A solver of higher order needs few calls of the network.",
        "samplers-intel-r-xeon-r-processor",
        (
            "closed form: fewest calls at no worse error",
            "closed form: dpm_solver_2m as shipped",
            "fitted generator: dpm_solver_2m as shipped",
        ),
        r"(\d+): (\S+) times",
        r"\1 calls, \2 times fewer than Heun",
        "no training; one fit",
    ),
    Headline(
        "Best start noise",
        "2305.15357",
        "Start noise that is chosen well raises the quality of a sample without retraining.",
        "second_ring-boundary_noise",
        ("nine blobs, a wanted one", "Gaussian data: the mean of the best of 8"),
        r"(\S+) at (\S+)",
        r"\1 of the gain of the best of 8, at \2 of its cost",
        "{seeds} seeds, exact denoiser",
    ),
    Headline(
        "Fokker-Planck residual",
        "2210.04296",
        "The residual in the loss closes the gap between ODE and SDE samples.",
        "second_ring-fokker_planck",
        (
            "sliced W2 between ODE and SDE samples",
            "the residual itself",
            "without the residual but 2.5 times the updates",
        ),
        r"weight 0: (.+?), .*weight 1: (.+)",
        r"gap \2, without \1",
        "{seeds} seeds, {updates:,} updates",
    ),
    Headline(
        "Off-policy evaluation",
        "2103.16596",
        "Fitted Q evaluation and model rollouts rank policies from data alone, and choose a good "
        "one.",
        "off_policy_evaluation",
        (
            "hopper, 16 policies, model rollouts, return: rank correlation",
            "hopper, 16 policies, fitted Q evaluation: rank correlation",
            "hopper, 16 policies, model rollouts, return: regret@1",
            "hopper, 16 policies, fitted Q evaluation: regret@1",
            "pendulum, 16 policies, fitted Q evaluation: rank correlation",
            "pendulum, 16 policies, model rollouts, return: rank correlation",
        ),
        r"(.+)",
        r"Hopper, rollouts: rank correlation \1",
        "16 policies, 4 fits, {hopper[fqe][updates]:,} updates of FQE",
    ),
    Headline(
        "Graded datasets",
        "2004.07219",
        "Random, medium and expert data of one task have rising scores.",
        "suite",
        ("small pendulum", "small swing-up", "small two-tanks"),
        r"random (\S+), .*medium (\S+), expert (\S+);",
        r"pendulum: \1, \2, \3",
        "one SAC run a task",
    ),
)
"""In the order of the README's methods, then what they are measured with."""
