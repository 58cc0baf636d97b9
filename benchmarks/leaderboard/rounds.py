"""Which seeds are trained next: batches of replicas, until every comparison is decided.

An arm is `method/seed`: a run of S replicas in one process. The replicas of all methods of a seed
meet the same starts of evaluation, so their returns are compared pair by pair. What is said holds
for new trainings on the same dataset. Replicas of one process may share a world model, and those
starts; where that makes their differences alike, the stated error is not kept exactly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reverie.benchmarks.claims.comparison import LAST, Record
from reverie.benchmarks.claims.growing import Records
from reverie.benchmarks.claims.sequential import Decision, Plan

ERROR = 0.05
"""Probability that any method is called better or worse than the yardstick of a dataset wrongly."""
BATCHES = 4
"""Runs of a method on a dataset, at most."""


@dataclass(frozen=True)
class Board:
    """What is compared.

    Attributes:
        methods: longest first.
        against: the yardstick, one of them.
        seeds: S, replicas of a run.
        batches: runs of a method on a dataset, at most.
    """

    methods: Sequence[str]
    against: str
    seeds: int
    batches: int

    @property
    def plan(self) -> Plan:
        """Looks after every batch; all comparisons of a dataset share the error."""
        looks = tuple(self.seeds * (batch + 1) for batch in range(self.batches))
        return Plan(looks, ERROR, max(1, len(self.methods) - 1))

    def arms(self) -> list[str]:
        """All that there may be."""
        return [f"{method}/{batch}" for batch in range(self.batches) for method in self.methods]

    def decide(self, records: Mapping[str, Record], method: str) -> Decision | None:
        """A method less the yardstick on one dataset.

        Returns:
            None where there is nothing to compare: it is the yardstick itself, or one of the two
            has a run that did not come to its end.
        """
        mine, theirs = (batches_of(records, each) for each in (method, self.against))
        if method == self.against or any(record["stopped"] for record in (*mine, *theirs)):
            return None
        both = min(len(mine), len(theirs))
        pairs = zip(seed_returns(mine[:both]), seed_returns(theirs[:both]), strict=True)
        return self.plan.decide([one - other for one, other in pairs])

    def wanted(self, records: Mapping[str, Record], suited: Sequence[str]) -> list[str]:
        """Arms of one dataset that are to be trained before anything more can be said.

        Args:
            records: by arm.
            suited: methods that are trained on it.
        """
        first = [f"{method}/0" for method in suited if f"{method}/0" not in records]
        if first:
            return first
        asked = []
        for method in suited:
            found = self.decide(records, method)
            if found is not None and not found.final:
                asked += [(each, self._next(records, each)) for each in (method, self.against)]
        behind = min((batch for _, batch in asked), default=self.batches)
        # The yardstick may be ahead, after comparisons that are decided by now.
        arms = dict.fromkeys(f"{method}/{batch}" for method, batch in asked if batch == behind)
        order = self.arms()
        return sorted((arm for arm in arms if arm in order), key=order.index)

    def _next(self, records: Mapping[str, Record], method: str) -> int:
        return len(batches_of(records, method))


def batches_of(records: Mapping[str, Record], method: str) -> list[Record]:
    """Runs of a method on one dataset, from the first seed to the first that is missing."""
    found: list[Record] = []
    while (arm := f"{method}/{len(found)}") in records:
        found.append(records[arm])
    return found


def seed_returns(batches: Sequence[Record]) -> list[float]:
    """Mean of each replica's last evaluations, one run after another."""
    return [
        float(value)
        for record in batches
        for value in np.array(record["returns"], float)[:, -LAST:].mean(1)
    ]


def join(records: Records, methods: Sequence[str]) -> Records:
    """One record a method from those of its runs, as `comparison.tabulate` takes them."""
    return {
        task: {method: _join(own) for method in methods if (own := batches_of(arms, method))}
        for task, arms in records.items()
    }


def _join(batches: Sequence[Record]) -> Record:
    stages = dict.fromkeys(stage for record in batches for stage in record["seconds"])
    stopped = [record["stopped"] for record in batches if record["stopped"]]
    whole = [record for record in batches if not record["stopped"]]
    return {
        **batches[0],
        **{
            key: [each for record in whole for each in record[key]]
            for key in ("returns", "alarms", "outcome")
        },
        "seconds": {
            stage: sum(record["seconds"].get(stage, 0.0) for record in batches) for stage in stages
        },
        "stopped": stopped[0] if stopped else None,
    }
