"""Warnings of a finished run from its verdict: two lines at most for each group of seeds.

The first compares the policy's value with the recorded behaviour's, the second reports impossible
values of critics or estimates. Each has the numbers, the likely cause and the setting to try.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reverie.training.ope.conclusions import BROKEN, LONGER, NAMES, seeds_of, tell_horizon

EXCESS = 0.1
"""Share of the attainable range by which critics may expect more than every estimate gives."""
FEW_REAL = 0.25
"""Share of recorded rows in a batch below which synthetic ones decide what is learned."""
UNSETTLED = 0.5
"""Critics that had time for less of the way from zero to their values had too few updates."""
_IMPOSSIBLE = (
    "do not deploy; the likely cause are actions or states that the data lack, so keep the policy "
    "closer to them: on rollouts raise filter.penalty or lower source.horizon; or choose "
    "algorithm=td3_bc, with it a lower agent.alpha"
)


def alarms(
    verdict: Mapping[str, Any] | None,
    *,
    real_share: float = 1.0,
    critics: bool = True,
    clones: bool = False,
) -> list[str]:
    """Sentences, those of several seeds together.

    Args:
        verdict: see `Verdict.judge`; None for a run without one.
        real_share: of the rows in a batch, those that were recorded.
        critics: whether to look at what they expect, too.
        clones: whether the policy is a clone of what was recorded.

    Returns:
        Of the policy, the first that holds: its estimates contradict each other, it `is_worse`,
        it is a clone that is not shown to be better, it `falls_short`, it is `unjudged`. Then
        estimates that no reward allows, and what the critics expect in `excess`.
    """
    if verdict is None:
        return []
    said: dict[str, list[int]] = {}
    kinds: dict[Callable[[Mapping[str, Any], Sequence[int], float], str], list[int]] = {}
    for seed, outcome in enumerate(verdict["outcome"]):
        if outcome == "contradiction":
            said.setdefault(verdict["sentence"][seed], []).append(seed)
        elif is_worse(verdict, seed):
            kinds.setdefault(_tell_worse, []).append(seed)
        elif clones and verdict["outcome"][seed] != "better" and _sign_of_fit(verdict, seed) != 1:
            kinds.setdefault(_tell_clone, []).append(seed)
        elif falls_short(verdict, seed):
            kinds.setdefault(_tell_short, []).append(seed)
        elif unjudged(verdict, seed):
            tell = _tell_early if _is_early(verdict) else _tell_unjudged
            kinds.setdefault(tell, []).append(seed)
    for seed, impossible in enumerate(verdict["impossible"]):
        for each in impossible:
            said.setdefault(f"{each}: {_IMPOSSIBLE}", []).append(seed)
        if critics and not impossible and excess(verdict, seed) is not None:
            kinds.setdefault(_tell_excess, []).append(seed)
    said |= {tell(verdict, own, real_share): own for tell, own in kinds.items()}
    if verdict["seeds"] == 1:
        return list(said)
    return [f"{sentence} ({seeds_of(own)})" for sentence, own in said.items()]


def is_worse(verdict: Mapping[str, Any], seed: int) -> bool:
    """Whether a policy is worse than what was recorded.

    Also by fitted Q evaluation that had not converged, unless the model sees a gain.
    """
    outcome = verdict["outcome"][seed]
    if outcome in ("better", "worse"):
        return bool(outcome == "worse")
    gains = _measured(verdict, "model", seed) and verdict["model"]["difference"][seed][1] > 0
    return not gains and _sign_of_fit(verdict, seed) == -1


def falls_short(verdict: Mapping[str, Any], seed: int) -> bool:
    """Whether some estimate is below what was recorded, where the policy is not called better and
    fitted Q evaluation is not sure that it is."""
    if verdict["outcome"][seed] == "better" or _sign_of_fit(verdict, seed) == 1:
        return False
    return any(value < known for _, value, known in _estimates(verdict, seed))


def unjudged(verdict: Mapping[str, Any], seed: int) -> bool:
    """Whether no estimate is fit for use, and there is a reason to doubt the policy.

    Its critics had too few updates; or it leaves the data more than they do, and fitted Q
    evaluation sees no gain.
    """
    if verdict["outcome"][seed] != "none":
        return False
    leaves = _leaves_data(verdict, seed) and _sign_of_fit(verdict, seed) != 1
    return leaves or _is_early(verdict)


def _leaves_data(verdict: Mapping[str, Any], seed: int) -> bool:
    actions = verdict["actions"]
    return bool(actions["beyond"][seed] > actions["recorded_beyond"])


def _is_early(verdict: Mapping[str, Any]) -> bool:
    critics = verdict.get("critics")
    return critics is not None and bool(critics["settled"] < UNSETTLED)


def _sign_of_fit(verdict: Mapping[str, Any], seed: int) -> int:
    """Of what fitted Q evaluation says the policy earns more, 0 where it cannot tell.

    What it has left to move counts as doubt, so that it need not have converged.
    """
    fitted = verdict["fqe"]
    if not _measured(verdict, "fqe", seed) or fitted["remaining"][seed] is None:
        return 0
    scale = max(abs(fitted["value"][seed][0]), abs(verdict["recorded"]["value"][0]))
    left = fitted["remaining"][seed] * scale
    _, low, high = fitted["difference"][seed]
    return int(low - left > 0) - int(high + left < 0)


def excess(verdict: Mapping[str, Any], seed: int) -> float | None:
    """What the critics expect at the starts beyond every estimate; None where that is no alarm.

    Critics start at zero. Where the policy earns less than that, they are held only to the share
    that they have had time to come down by.
    """
    critics = verdict.get("critics")
    given = [
        verdict[method]["value"][seed][2] for method in NAMES if _measured(verdict, method, seed)
    ]
    if critics is None or not given:
        return None
    allowed = max(given) if max(given) > 0 else critics["settled"] * max(given)
    least, most = verdict["attainable"]
    found = float(critics["value"][seed][1]) - allowed
    return found if found > EXCESS * (most - least) else None


def _measured(verdict: Mapping[str, Any], method: str, seed: int) -> bool:
    found = verdict[method]
    if found is None or found.get("diverged"):
        return False
    return method != "model" or bool(found["broken"][seed] <= BROKEN)


def _estimates(verdict: Mapping[str, Any], seed: int) -> list[tuple[str, float, float]]:
    """Who estimates what, and what was recorded: values, and the return in the model."""
    recorded = verdict["recorded"]
    found = [
        (f"{NAMES[method]}", verdict[method]["value"][seed][0], recorded["value"][0])
        for method in NAMES
        if _measured(verdict, method, seed)
    ]
    if _measured(verdict, "model", seed):
        own = verdict["model"]["return"][seed][0]
        found.append(
            (f"a return of {tell_horizon(verdict)} in the model", own, recorded["return"][0])
        )
    return found


def _numbers(verdict: Mapping[str, Any], seeds: Sequence[int]) -> str:
    """The estimates of seeds beside the recorded ones, as ranges."""
    table: dict[tuple[str, float], list[float]] = {}
    for seed in seeds:
        for name, value, known in _estimates(verdict, seed):
            table.setdefault((name, known), []).append(value)
    return ", ".join(
        f"{name} {_range(values)} (recorded {known:.4g})" for (name, known), values in table.items()
    )


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.4g}", f"{max(values):.4g}"
    return low if low == high else f"{low} to {high}"


def _tell_worse(verdict: Mapping[str, Any], seeds: Sequence[int], real_share: float) -> str:
    numbers, remedy = _numbers(verdict, seeds), _remedy(verdict, seeds, real_share)
    return f"the policy is worse than what was recorded: {numbers}; do not deploy, {remedy}"


def _tell_short(verdict: Mapping[str, Any], seeds: Sequence[int], real_share: float) -> str:
    numbers, remedy = _numbers(verdict, seeds), _remedy(verdict, seeds, real_share)
    return f"not shown to be better than what was recorded: {numbers}; {remedy}"


def _tell_clone(verdict: Mapping[str, Any], seeds: Sequence[int], real_share: float) -> str:
    numbers = _numbers(verdict, seeds) or "no estimate is fit for use"
    return (
        f"not shown to be better than what was recorded: {numbers}; a clone earns about as much as "
        "what it was given, or less: to do better learn from the rewards, with algorithm=td3_bc"
    )


def _tell_unjudged(verdict: Mapping[str, Any], seeds: Sequence[int], real_share: float) -> str:
    own, usual = verdict["actions"]["beyond"], verdict["actions"]["recorded_beyond"]
    far = _range([round(100 * own[seed]) for seed in seeds])
    return (
        "not shown to be better than what was recorded: no estimate is fit for use, and in "
        f"{far} % of the recorded states its action lies outside those recorded nearby (recorded "
        f"actions: {usual:.0%}); {LONGER} judges longer, else {_closer(real_share)}"
    )


def _tell_early(verdict: Mapping[str, Any], seeds: Sequence[int], real_share: float) -> str:
    return (
        "not shown to be better than what was recorded: no estimate is fit for use, and the "
        f"critics had time for {verdict['critics']['settled']:.0%} of the way from zero to their "
        f"values: try more updates, or a higher agent.tau; {LONGER} judges longer"
    )


def _tell_excess(verdict: Mapping[str, Any], seeds: Sequence[int], real_share: float) -> str:
    critics = [verdict["critics"]["value"][seed][0] for seed in seeds]
    return (
        f"the critics expect {_range(critics)} from the start states, and no estimate gives that: "
        f"{_numbers(verdict, seeds)}; {_remedy(verdict, seeds, real_share)}"
    )


def _remedy(verdict: Mapping[str, Any], seeds: Sequence[int], real_share: float) -> str:
    """The likely cause and what to try against it."""
    critics = verdict.get("critics")
    if critics is not None:
        value = statistics.fmean(critics["value"][seed][0] for seed in seeds)
        bonus = statistics.fmean(critics["bonus"][seed] for seed in seeds)
        if bonus > abs(value - bonus):
            return (
                f"likely the temperature is too high for so many updates, since of the {value:.4g} "
                f"that the critics expect {bonus:.4g} is a bonus for noise: try a lower "
                "agent.initial_temperature, a higher agent.temperature_learning_rate, or more "
                "updates"
            )
        if _is_early(verdict):
            return (
                f"likely too few updates, since the critics had time for {critics['settled']:.0%} "
                "of the way from zero to their values: try more updates, or a higher agent.tau"
            )
    if any(_leaves_data(verdict, seed) for seed in seeds):
        return f"likely its actions leave the data: {_closer(real_share)}"
    return (
        "likely it copies what was recorded, for its actions stay within the data: try "
        "algorithm=bc_best, a looser hold on the data (td3_bc: a higher agent.alpha; mopo_bc: a "
        "lower agent.imitation; rebrac: a lower agent.actor_penalty), or more updates"
    )


def _closer(real_share: float) -> str:
    if real_share < FEW_REAL:
        return (
            f"try more recorded rows in a batch (real_ratio, {real_share:.2g} now), a higher "
            "filter.penalty, or a lower source.horizon"
        )
    return "try algorithm=td3_bc, with it a lower agent.alpha"
