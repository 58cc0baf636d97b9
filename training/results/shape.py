"""The expected shape of a run's JSON files, for reading files that may be damaged or foreign."""

from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any], bool]


def is_number(value: Any) -> bool:
    """Also null, as which a number that was not finite is written."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def object_of(check: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


_SUMMARY: dict[str, Check] = {
    "name": is_text,
    "seed": is_count,
    "seeds": is_count,
    "result": lambda value: isinstance(value, dict),
    "dataset": lambda value: isinstance(value, dict),
    "dataset.name": is_text,
    "dataset.fingerprint": is_text,
    "dataset.behaviour": object_of(is_number),
    "environment": optional(is_text),
    "physics": is_text,
    "seconds": object_of(lambda value: is_number(value) and value is not None),
}
_OF_SOME: dict[str, Check] = {
    "updates": is_count,
    "population": object_of(list_of(lambda value: is_number(value) and value is not None)),
    "alarms": list_of(is_text),
    "versions": object_of(is_text),
    "device": is_text,
    "metrics_sha256": is_text,
}


def _is_interval(value: Any) -> bool:
    return list_of(lambda each: is_number(each) and each is not None)(value) and len(value) == 3


_VERDICT: dict[str, Check] = {
    "discount": lambda value: is_number(value) and value is not None,
    "horizon": is_count,
    "starts": is_count,
    "seeds": is_count,
    "recorded.value": _is_interval,
    "recorded.return": _is_interval,
    "recorded.continued": lambda value: is_number(value) and value is not None,
    "actions.distance": list_of(is_number),
    "actions.beyond": list_of(is_number),
    "actions.recorded_beyond": lambda value: is_number(value) and value is not None,
    "outcome": list_of(is_text),
    "agreement": list_of(is_text),
    "sentence": list_of(is_text),
}
_FITTED: dict[str, Check] = {
    "updates": is_count,
    "diverged": lambda value: isinstance(value, bool),
    "value": list_of(_is_interval),
    "difference": list_of(_is_interval),
    "remaining": list_of(is_number),
    "converged": list_of(lambda value: isinstance(value, bool)),
}
_DIVERGED = ("updates", "diverged")
"""What there is to say of a fit without a result."""
_ROLLED_OUT: dict[str, Check] = {
    **{name: list_of(_is_interval) for name in ("value", "difference", "return")},
    "beyond": list_of(is_number),
}
_REPLAYED: dict[str, Check] = {
    **{f"recorded.{name}": list_of(_is_interval) for name in ("value", "bias")},
    "recorded.broken": list_of(is_number),
}
"""Of a model that was asked to repeat the recordings, which older summaries do not know."""
_CORRECTED: dict[str, Check] = {
    **{name: list_of(_is_interval) for name in ("value", "difference")},
    "steps": list_of(is_count),
    "effective": list_of(is_number),
}
"""Of doubly robust estimates, which older summaries do not know."""
_EXPECTED: dict[str, Check] = {
    "value": list_of(_is_interval),
    "bonus": list_of(is_number),
    "settled": is_number,
}
"""Of the agent's own critics, which older summaries do not know."""
_SHARED = ("recorded.value", "recorded.return")
"""Lists that hold no entry a seed."""
_MEASURED: dict[str, Check] = {
    **{f"one_step.{name}": list_of(is_number) for name in ("rmse_median", "r2_median")},
    "one_step.reward_rmse": list_of(is_number),
    "holdout_loss": list_of(list_of(is_number)),
    "likelihood.mixture": list_of(is_number),
    **{f"calibration.{name}": list_of(is_number) for name in ("error", "z_std")},
}
_GATE: dict[str, Check] = {
    **dict.fromkeys(("steps", "segments"), is_count),
    **dict.fromkeys(("median", "limit"), is_number),
    "alarm": lambda value: isinstance(value, bool),
}
"""What the fit of equations says of its open loop, see `world_models.sindy.open_loop_gate`."""
_DRAWN = {
    "open_loop": ("horizons", ("mean.median", "constant.median")),
    "calibration": ("levels", ("coverage",)),
}
"""Parts of a `world_model.json` of which curves are drawn: the axis, and values a seed over it."""


def complaint_of_summary(summary: Mapping[str, Any]) -> str | None:
    """What is wrong with a `summary.json` of this version, None for nothing."""
    for key, check in _SUMMARY.items():
        if not check(_at(summary, key)):
            return f"its {key} is {_shown(summary, key)}"
    for key, check in _OF_SOME.items():
        if key in summary and not check(summary[key]):
            return f"its {key} is {_shown(summary, key)}"
    seeds, result, behaviour = summary["seeds"], summary["result"], summary["dataset"]["behaviour"]
    if not seeds:
        return "its seeds is 0"
    for name, value in result.items():
        several = name.endswith("_per_seed")
        right = list_of(is_number)(value) and len(value) == seeds if several else is_number(value)
        if not right:
            return f"its result.{name} is {value!r} for {seeds} seeds"
    for unit in ("score", "return"):
        for kind in ("last10", "final", "best"):
            of_mean, of_seeds = (f"{unit}_{kind}{end}" in result for end in ("", "_per_seed"))
            if of_mean != of_seeds:
                return f"of its result.{unit}_{kind} the mean or the seeds are missing"
    units = ("return", *(["score"] if "score_last10" in result else []))
    for key in (f"{unit}_{kind}" for unit in units for kind in ("mean", "best")):
        if behaviour.get(key) is None:
            return f"its dataset.behaviour has no {key}"
    if not optional(list_of(is_text))(summary["dataset"].get("exogenous")):
        return f"its dataset.exogenous is {_shown(summary, 'dataset.exogenous')}"
    wrong = complaint_of_verdict(summary.get("verdict"), seeds)
    if wrong is not None:
        return wrong
    for key, values in summary.get("population", {}).items():
        if len(values) != seeds:
            return f"its population.{key} has {len(values)} values for {seeds} seeds"
    return None


def complaint_of_verdict(verdict: Any, seeds: int) -> str | None:
    """What is wrong with the verdict of a summary of so many seeds, None for nothing."""
    if verdict is None:
        return None
    checks = dict(_VERDICT)
    parts = {
        "fqe": _FITTED,
        "model": _ROLLED_OUT,
        "doubly_robust": _CORRECTED,
        "critics": _EXPECTED,
    }
    for method, own in parts.items():
        measured = _at(verdict, method)
        if measured is _MISSING and method in ("doubly_robust", "critics"):
            continue
        if measured is not None:
            names = _DIVERGED if _at(measured, "diverged") is True else own
            if _at(measured, "recorded") is not _MISSING:
                names = own = own | _REPLAYED
            checks |= {f"{method}.{name}": own[name] for name in names}
    for key, check in checks.items():
        found = _at(verdict, key)
        per_seed = isinstance(found, list) and key not in _SHARED
        if not check(found) or (per_seed and len(found) != seeds):
            return f"its verdict.{key} is {_shown(verdict, key)} for {seeds} seeds"
    return None if verdict["seeds"] == seeds else f"its verdict is of {verdict['seeds']} seeds"


def complaint_of_measurements(measured: Mapping[str, Any]) -> str | None:
    """What is wrong with a `world_model.json`, None for nothing; a model may lack any part."""
    for part in ("one_step", "likelihood", *_DRAWN):
        if not optional(lambda value: isinstance(value, dict))(measured.get(part)):
            return f"its {part} is {_shown(measured, part)}"
    for key, check in _MEASURED.items():
        found = _at(measured, key)
        if found is not _MISSING and not check(found):
            return f"its {key} is {_shown(measured, key)}"
    for part, (axis, names) in _DRAWN.items():
        if not measured.get(part):
            continue
        points = _at(measured, f"{part}.{axis}")
        if not (list_of(is_number)(points) and points):
            return f"its {part}.{axis} is {_shown(measured, f'{part}.{axis}')}"
        for key in (f"{part}.{name}" for name in names):
            table = _at(measured, key)
            if not list_of(list_of(is_number))(table) or any(len(r) != len(points) for r in table):
                return f"its {key} has not one number a seed for each of its {axis}"
    return None


def complaint_of_fit(described: Mapping[str, Any]) -> str | None:
    """What is wrong with what a world model says of its fit, None for nothing.

    It may hold parts of a `world_model.json`, and in the place of its `open_loop` that of a gate.
    """
    gate = described.get("open_loop")
    if isinstance(gate, dict) and "alarm" in gate:
        for key, check in _GATE.items():
            if not check(_at(gate, key)):
                return f"its open_loop.{key} is {_shown(gate, key)}"
        described = {name: part for name, part in described.items() if name != "open_loop"}
    return complaint_of_measurements(described)


def complaint_of_evaluation(evaluation: Mapping[str, Any]) -> str | None:
    """What is wrong with an `evaluation.json`, None for nothing."""
    if optional(list_of(list_of(is_number)))(evaluation.get("scores")):
        return None
    return f"its scores is {_shown(evaluation, 'scores')}"


def _at(node: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return _MISSING
        node = node[part]
    return node


def _shown(node: Any, key: str) -> str:
    found = _at(node, key)
    text = "missing" if found is _MISSING else repr(found)
    return text if len(text) <= 60 else f"{text[:60]}..."


_MISSING = object()
