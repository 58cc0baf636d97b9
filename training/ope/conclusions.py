"""The conclusion from the estimates of a verdict, in one sentence per policy."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reverie.text import counted

BROKEN = 0.05
"""Share of rollouts that break down above which the rest of them says nothing: they stop paying."""
FEW = 20
"""Recorded starts below which an interval over them is too narrow to be relied on."""
_SLACK = 0.01
"""Share of the attainable range by which an estimate may miss it."""
NAMES = {"fqe": "fitted Q evaluation", "model": "the model rollouts"}
_RUN = "run=..."
"""Stands in sentences for a directory, since a run may be moved."""
LONGER = f"python -m training.ope {_RUN} fqe.updates=20000"


def conclude(found: Mapping[str, Any], far: float) -> dict[str, Any]:
    """Outcomes, agreements, cautions and sentences, one a seed.

    Args:
        found: what was measured, see `Verdict.judge`.
        far: share beyond the data above which no policy is called better.

    Returns:
        `outcome`: better, worse, unclear, contradiction or none (no estimate is fit for use);
        `agreement`: agree (the intervals overlap), differ, contradict (in whether the policy is
        better than what was recorded) or one; `impossible`, estimates beyond what the rewards
        allow; `cautions`, these and others; `sentence`, of all that.

    A gain in the model counts only where it is larger than what the model misses of the recorded
    behaviour; so does a loss, unless fitted Q evaluation sees one too. No policy is better that an
    estimate promises the impossible of, or that often leaves the data: what an estimate says there
    is a guess. Nor is one whose doubly robust estimate, where there is one, is below the recorded
    value.
    """
    made = [_of_seed(found, seed, far) for seed in range(found["seeds"])]
    return {name: [each[name] for each in made] for name in made[0]}


def _of_seed(found: Mapping[str, Any], seed: int, far: float) -> dict[str, Any]:
    signs, unfit = {}, []
    for method in NAMES:
        reason = unfit_reason(found, method, seed)
        if reason is None:
            _, low, high = found[method]["difference"][seed]
            signs[method] = (low > 0) - (high < 0)
        else:
            unfit.append(reason)
    agreement = _agreement(found, signs, seed)
    # A loss that fitted Q evaluation confirms needs no such proof.
    asked = signs.get("model") == 1 or (signs.get("model") == -1 and signs.get("fqe") != -1)
    biased = _biased(found, seed, signs["model"]) if asked else None
    weighed = signs | {"model": 0} if biased and agreement != "contradict" else signs
    outcome, said = _outcome(weighed, agreement, unfit)
    impossible = _impossible(found, signs, seed)
    doubts = [*impossible, *_unsupported(found, signs, seed, far), *_corrected(found, seed)]
    cautions = [*([biased] if biased else []), *doubts, *_few(found)]
    sentence = "; but ".join([said, *cautions[:1]]) if signs else said
    if outcome == "better" and doubts:
        outcome, sentence = "unclear", f"do not rely on it: looks {said}, but {doubts[0]}"
    return {
        "outcome": outcome,
        "agreement": agreement,
        "impossible": impossible,
        "cautions": cautions,
        "sentence": sentence,
    }


def _few(found: Mapping[str, Any]) -> list[str]:
    """That intervals over so few starts do not know how starts differ."""
    if found["starts"] >= FEW:
        return []
    return [
        f"its intervals rest on {counted(found['starts'], 'recorded start')} and are too narrow"
    ]


def _biased(found: Mapping[str, Any], seed: int, sign: int) -> str | None:
    """Why a gain (`sign` 1) or loss (-1) in the model may be its error; None where it is larger."""
    recorded, (_, low, high) = found["model"]["recorded"], found["model"]["difference"][seed]
    sure, what = (low, "gain") if sign == 1 else (-high, "loss")
    if recorded["broken"][seed] > BROKEN:
        return f"{recorded['broken'][seed]:.0%} of the recorded actions broke the model down"
    _, least, most = recorded["bias"][seed]
    missed = max(-least, most)
    if sure > missed:
        return None
    return (
        f"the model itself misses the recorded value by up to {missed:.4g}, and its lower bound on "
        f"the {what} is {sure:.4g}"
    )


def unfit_reason(found: Mapping[str, Any], method: str, seed: int) -> str | None:
    """Why a method says nothing, with what may help; None where it does."""
    measured = found[method]
    if method == "fqe":
        if measured is None:
            return "fitted Q evaluation was switched off"
        if measured["diverged"]:
            return "fitted Q evaluation diverged"
        if not measured["converged"][seed]:
            return f"fitted Q evaluation had not converged ({LONGER} trains it longer)"
        return None
    if measured is None:
        return "there was no world model (world_model=ensemble fits one)"
    if measured["broken"][seed] > BROKEN:
        return f"{measured['broken'][seed]:.0%} of the model rollouts broke down"
    return None


def _agreement(found: Mapping[str, Any], signs: Mapping[str, int], seed: int) -> str:
    if len(signs) < len(NAMES):
        return "one"
    if sorted(signs.values()) == [-1, 1]:
        return "contradict"
    (_, a, b), (_, c, d) = (found[method]["value"][seed] for method in NAMES)
    return "agree" if a <= d and c <= b else "differ"


def _outcome(signs: Mapping[str, int], agreement: str, unfit: Sequence[str]) -> tuple[str, str]:
    reasons = " and ".join(unfit)
    if not signs:
        return "none", f"no verdict: {reasons}"
    if agreement == "contradict":
        return "contradiction", (
            "the two estimates contradict each other: do not deploy; stay closer to the data "
            f"(algorithm=td3_bc, with it a lower agent.alpha), or try {LONGER}"
        )
    by = {
        sign: [NAMES[method] for method, own in signs.items() if own == sign] for sign in (1, 0, -1)
    }
    if agreement == "one":
        (sign,), (name,) = signs.values(), (NAMES[method] for method in signs)
        said = _SAID[sign].format(f"by {name} alone")
        return _OUTCOMES[sign], f"{said}: {reasons}"
    if not by[0]:
        sign = 1 if by[1] else -1
        size = ", which differ in size" if agreement == "differ" else ""
        return _OUTCOMES[sign], _SAID[sign].format(f"by both estimates{size}")
    if not by[1] and not by[-1]:
        return "unclear", _SAID[0].format("by either estimate")
    sign = 1 if by[1] else -1
    said = _SAID[sign].format(f"by {by[sign][0]}")
    return _OUTCOMES[sign], f"{said}; {by[0][0]} cannot tell"


_OUTCOMES = {1: "better", 0: "unclear", -1: "worse"}
_SAID = {
    1: "better than what was recorded {}",
    0: "not distinguishable from what was recorded {}",
    -1: "do not deploy: worse than what was recorded {}",
}


def _impossible(found: Mapping[str, Any], signs: Mapping[str, int], seed: int) -> list[str]:
    """Estimates that the recorded rewards do not allow, in words."""
    said = []
    least, most = found["attainable"]
    slack = _SLACK * (most - least)
    for method in signs:
        value, s = found[method]["value"][seed][0], "s" * (method == "fqe")
        if value > most + slack:
            said.append(
                f"{NAMES[method]} predict{s} {value:.4g}, and the best recorded reward at every "
                f"step comes to {most:.4g}"
            )
        elif value < least - slack:
            said.append(
                f"{NAMES[method]} predict{s} {value:.4g}, and the worst recorded reward at every "
                f"step comes to {least:.4g}"
            )
    return said


def _unsupported(
    found: Mapping[str, Any], signs: Mapping[str, int], seed: int, far: float
) -> list[str]:
    """Actions and states that the data do not know, in words, where they are many."""
    said = []
    own, usual = found["actions"]["beyond"][seed], found["actions"]["recorded_beyond"]
    if own > usual + far * (1 - usual):
        said.append(
            f"in {own:.0%} of the recorded states its action lies outside those recorded nearby "
            f"(recorded actions: {usual:.0%})"
        )
    if "model" in signs and found["model"]["beyond"][seed] > far:
        beyond = found["model"]["beyond"][seed]
        said.append(f"{beyond:.0%} of its states in the model lie beyond the data")
    return said


def corrected(found: Mapping[str, Any], seed: int) -> bool:
    """Whether importance weights were fit to correct fitted Q evaluation."""
    weighed = found.get("doubly_robust")
    return weighed is not None and weighed["steps"][seed] > 0


def _corrected(found: Mapping[str, Any], seed: int) -> list[str]:
    """That corrected by its errors on recorded steps the value is below the recorded one."""
    if not corrected(found, seed):
        return []
    difference, _, high = found["doubly_robust"]["difference"][seed]
    if high >= 0:
        return []
    return [
        f"corrected by its errors on recorded steps, fitted Q evaluation is {-difference:.4g} "
        "below what was recorded"
    ]


def tell_horizon(verdict: Mapping[str, Any]) -> str:
    """How long a return is, such as "200 steps", or in chunks where actions are such."""
    # Runs of before there were chunks do not say.
    return counted(verdict["horizon"], "chunk" if verdict.get("chunk", 1) > 1 else "step")


def name_run(sentence: str, run_dir: Path) -> str:
    """A sentence whose commands can be typed as they stand."""
    return sentence.replace(_RUN, shlex.quote(f"run={run_dir}"))


def sentences(verdict: Mapping[str, Any]) -> list[str]:
    """The conclusions, equal ones of several seeds together."""
    said: dict[str, list[int]] = {}
    for seed, sentence in enumerate(verdict["sentence"]):
        said.setdefault(sentence, []).append(seed)
    if len(said) == 1:
        return list(said)
    return [f"{seeds_of(own)}: {sentence}" for sentence, own in said.items()]


def seeds_of(own: Sequence[int]) -> str:
    """Their numbers, in words."""
    return f"seed{'s' * (len(own) > 1)} {', '.join(map(str, own))}"
