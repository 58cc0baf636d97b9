"""Search spaces in Hydra's syntax of sweeps, as distributions of Optuna."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from omegaconf import OmegaConf
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from reverie.mistake import Mistake
from reverie.paths import quote_paths
from reverie.training.launch import renamed
from reverie.training.launch.hyperparameters import compose_run
from reverie.training.population import population

Space = dict[str, BaseDistribution]


def question(settings: Sequence[str]) -> tuple[list[str], Space]:
    """Settings that are the same in all trials, and the distributions of the others.

    Raises:
        Mistake: nothing to search, or a run that is a population.
        hydra.errors.HydraException: settings that train.py does not have.
    """
    renamed.refuse_arguments(settings)
    parsed = OverridesParser.create().parse_overrides(quote_paths(settings, sweeps=True))
    space = {
        each.get_key_element(): distribution(each) for each in parsed if each.is_sweep_override()
    }
    fixed = [each.input_line or "" for each in parsed if not each.is_sweep_override()]
    if not space:
        raise Mistake(
            "there is nothing to search; give a setting several values, for example "
            "agent.expectile='interval(0.5,0.95)'"
        )
    sample = {key: _example(each) for key, each in space.items()}
    composed: Any = OmegaConf.to_container(compose_run([*fixed, *typed(sample)]))
    if population(composed):
        raise Mistake(
            f"{', '.join(population(composed))} differs between the seeds of each run, whose mean "
            "would be maximised; give one number"
        )
    if not composed["evaluate"]["every"]:
        raise Mistake("evaluate.every=0 scores nothing that could be maximised; set a period")
    return fixed, space


def distribution(override: Override) -> BaseDistribution:
    """Where the values of a setting are drawn from.

    Raises:
        Mistake: not a sweep over values.
    """
    value = override.value()
    if isinstance(value, ChoiceSweep):
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    if isinstance(value, RangeSweep):
        start, stop, step = value.start, value.stop, value.step
        assert start is not None and stop is not None
        values = np.arange(start, stop, step)  # without its end, as in Hydra
        if not len(values):
            raise Mistake(f"{override.input_line} is empty; the end of a range is not in it")
        if isinstance(start, int) and isinstance(step, int):
            return IntDistribution(start, int(values[-1]), step=step)
        return FloatDistribution(start, float(values[-1]), step=step)
    if isinstance(value, IntervalSweep):
        log = "log" in value.tags
        if isinstance(value.start, int) and isinstance(value.end, int):
            return IntDistribution(value.start, value.end, log=log)
        assert value.start is not None and value.end is not None
        return FloatDistribution(value.start, value.end, log=log)
    raise Mistake(
        f"{override.input_line} cannot be searched; use a,b or range(...) or interval(...)"
    )


def typed(params: dict[str, Any]) -> list[str]:
    """Values as they are typed after train.py."""
    return [f"{key}={value}" for key, value in params.items()]


def _example(distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    return distribution.low  # type: ignore[attr-defined]
