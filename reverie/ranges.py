"""Which numbers a setting may be, declared beside the class that takes it.

An argument of a constructor that a configuration fills is annotated with one of these types, or
with one of its own: `discount: UnitInterval`, `rows: Annotated[int, Range(2)]`. For a type checker
they are `float` and `int`; `reverie.settings` refuses what lies outside before anything is built.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin


@dataclass(frozen=True)
class Range:
    """Numbers between bounds, or lists of them; NaN is never one of them.

    Attributes:
        low, high: bounds that belong to it, None for none.
        above, below: bounds that do not.
        infinite: whether an infinite number may be given where nothing bounds it.
    """

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    infinite: bool = False

    def holds(self, value: Any) -> bool:
        """Whether a number lies inside, or every one of a list."""
        if isinstance(value, Sequence):
            return all(map(self.holds, value))
        if math.isnan(value) or (math.isinf(value) and not self.infinite):
            return False
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        low = self.low if self.above is None else self.above
        high = self.high if self.below is None else self.below
        if low is not None and high is not None:
            begin, end = "[" if self.above is None else "(", "]" if self.below is None else ")"
            return f"in {begin}{low}, {high}{end}"
        if low is not None:
            return f"above {low}" if self.low is None else f"at least {low}"
        if high is not None:
            return f"below {high}" if self.high is None else f"at most {high}"
        return "finite"


@dataclass(frozen=True)
class Pair:
    """Two entries, the lower one first.

    Attributes:
        ascending: whether their order matters.
    """

    ascending: bool = True

    def holds(self, value: Any) -> bool:
        """Whether a sequence of numbers is such a pair."""
        return len(value) == 2 and (not self.ascending or value[0] <= value[1])

    def __str__(self) -> str:
        return "two entries, the lower one first" if self.ascending else "two entries"


@dataclass(frozen=True)
class Filled:
    """A list of one entry at least."""

    def holds(self, value: Any) -> bool:
        """Whether a sequence has an entry."""
        return len(value) > 0

    def __str__(self) -> str:
        return "not empty"


@dataclass(frozen=True)
class ArgumentsOf:
    """The setting is a mapping whose keys are arguments of a function or of a class.

    Attributes:
        find: gives it for the settings beside this one; or the annotations themselves, by key.
    """

    find: Callable[[Mapping[str, Any]], Callable[..., Any] | Mapping[str, Any]]


Finite = Annotated[float, Range()]
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(0)]
UnitInterval = Annotated[float, Range(0, 1)]
Inside = Annotated[float, Range(above=0, below=1)]
"""Between 0 and 1, which are not allowed."""
Share = Annotated[float, Range(above=0, high=1)]
"""Of something that is not nothing."""
Decay = Annotated[float, Range(0, below=1)]
"""Of a moving average, and other shares that leave something."""
Number = Annotated[int | float, Range()]
"""`Finite` of which the code takes whole ones as they are."""
Whole = Annotated[int, Range(0)]
Count = Annotated[int, Range(1)]
EpisodeCount = Annotated[int, Range(1, 100_000)]
"""Played side by side, each in a copy of the environment."""
Seed = Annotated[int, Range(0, 2**63 - 1)]
Threads = Literal["auto"] | Annotated[int, Range(1, 1024)]
"""Of torch: some thousands more end the process without a word."""
Widths = Sequence[Count]
"""Of the hidden layers of a network."""
Bounds = Annotated[Sequence[Finite], Pair()]
"""A lower and an upper one."""
PositiveBounds = Annotated[Sequence[Positive], Pair()]
Levels = Annotated[Sequence[Annotated[float, Range(0, infinite=True)]], Pair()]
"""Between which levels of noise something acts."""


MOST = {int: 10**12, float: 3.4e38}
"""How far from 0 a number without bounds may lie: a trillion, and what float32 holds."""


def fits(value: Any, annotation: Any, bounded: bool = False) -> bool:
    """Whether a plain value is of an annotated type and range; true where nobody can tell.

    Args:
        bounded: numbers beyond `MOST` fit, too.
    """
    if hasattr(value, "tolist"):  # of numpy or torch
        value = value.tolist()
    kind, inner = get_origin(annotation) or annotation, get_args(annotation)
    if kind is Annotated:
        plain, *declared = inner
        limits = [each for each in declared if isinstance(each, Range | Pair | Filled)]
        named = any(isinstance(each, ArgumentsOf) for each in declared) and plain is not Any
        ranges = [each for each in limits if isinstance(each, Range)]
        bounded |= any(each.high is not None or each.below is not None for each in ranges)
        return (
            (isinstance(value, Mapping) or not named)
            and fits(value, plain, bounded)
            and all(each.holds(value) for each in limits)
        )
    if kind in (Union, UnionType):
        return any(fits(value, member, bounded) for member in inner)
    if kind is Literal:
        return any(value == each and type(value) is type(each) for each in inner)
    if kind in (None, NoneType):
        return value is None
    if kind in (float, int):
        number = isinstance(value, int) or (kind is float and isinstance(value, float))
        if not number or isinstance(value, bool) or math.isnan(value):
            return False
        return bounded or abs(value) <= MOST[kind] or value in (math.inf, -math.inf)
    if kind in (bool, str):
        return isinstance(value, kind)
    if kind is Callable:  # or the settings of what is to be built
        return callable(value) or isinstance(value, Mapping)
    if is_dataclass(kind):  # or the settings of it
        return isinstance(value, (Mapping, cast(type, kind)))
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return isinstance(value, Mapping)
    if isinstance(kind, type) and issubclass(kind, Sequence):
        listed = isinstance(value, Sequence) and not isinstance(value, str)
        return listed and all(fits(item, inner[0], bounded) for item in value if inner)
    return True


def describe(annotation: Any) -> str:
    """What `fits` takes, in words that follow "must be"."""
    kind, inner = get_origin(annotation) or annotation, get_args(annotation)
    if kind is Annotated:
        plain, *declared = inner
        example = next((each for each in declared if isinstance(each, str)), None)
        if example is not None:
            return example
        limits = (str(each) for each in declared if isinstance(each, Range | Pair | Filled))
        return ", ".join([describe(plain), *limits])
    if kind in (Union, UnionType):
        if float in inner:  # of which whole ones are some
            inner = tuple(each for each in inner if each is not int)
        members = [describe(each) for each in inner if each is not NoneType]
        null = ["null"] if NoneType in inner else []
        listed = list(dict.fromkeys([*members, *null]))
        return (" or " if len(listed) < 3 else ", or ").join(listed)
    if kind is Literal:
        return " or ".join(map(str, inner))
    if kind is Callable:
        return "an option of its group"
    if isinstance(kind, type) and issubclass(kind, Sequence) and kind is not str:
        return f"a list, each entry {describe(inner[0])}" if inner else "a list"
    if is_dataclass(kind) or (isinstance(kind, type) and issubclass(kind, Mapping)):
        return "keys with values"
    known = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
    return known.get(kind, getattr(kind, "__name__", str(kind)))


def arguments_of(annotation: Any) -> ArgumentsOf | None:
    """What says that a mapping holds arguments, also where it may be None."""
    if get_origin(annotation) is Annotated:
        found = [each for each in get_args(annotation) if isinstance(each, ArgumentsOf)]
        return found[0] if found else None
    if get_origin(annotation) in (Union, UnionType):
        members = (arguments_of(each) for each in get_args(annotation))
        return next((each for each in members if each is not None), None)
    return None


def bounds_of(annotation: Any) -> Range | None:
    """The range of the one fractional number that is meant, if it has two ends."""
    if get_origin(annotation) in (Union, UnionType):
        members = [each for each in get_args(annotation) if each is not NoneType]
        return bounds_of(members[0]) if len(members) == 1 else None
    if get_origin(annotation) is not Annotated or get_args(annotation)[0] is int:
        return None
    limits = (each for each in get_args(annotation) if isinstance(each, Range))
    return next((each for each in limits if str(each).startswith("in ")), None)
