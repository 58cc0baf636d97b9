"""Every number of the configuration says what it may be, and is refused with its key otherwise."""

import copy
import importlib
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache, partial
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import numpy as np
import pytest
import yaml

import reverie
from reverie.agents.sac import SAC
from reverie.datasets.options import BENCHMARKS, load
from reverie.mistake import Mistake
from reverie.ranges import (
    Count,
    Filled,
    Pair,
    Positive,
    Range,
    Seed,
    Share,
    arguments_of,
    describe,
    fits,
)
from reverie.settings import MISSING, declared, misfit, require_declared
from reverie.training.launch.hyperparameters import compose_run
from reverie.training.launch.make import load_preset
from reverie.training.launch.options import CONF, PACKAGES, options, read_option, tuned
from reverie.world_models.ensemble import ProbabilisticEnsemble
from reverie.world_models.per_seed import PerSeed
from tests.cases import some

COMMANDS = {
    "train": "reverie.training.launch.requirements",
    "collect": "reverie.training.collect.__main__",
    "ope": "reverie.training.ope.__main__",
    "distil": "reverie.training.distil.__main__",
    "export": "reverie.training.export.__main__",
    "evaluate": "reverie.evaluate",
}
"""The modules in which their own settings are declared."""
GROUPS = sorted(
    path.name
    for path in CONF.iterdir()
    if path.is_dir() and path.name not in ("hydra", "tuned", "limits")
)
FREE = re.compile(r"env_kwargs")
"""Of which the environment says what they may be."""


@cache
def option(group, name):
    """An option where its settings lie."""
    settings = read_option(f"{group}/{name}")
    for part in reversed(PACKAGES.get(group, group).split(".")):
        settings = {part: settings}
    return settings


OPTIONS = [
    (group, name)
    for group in GROUPS
    for name in options(group)
    if name.partition("/")[0] not in BENCHMARKS and "_target_" in read_option(f"{group}/{name}")
]


def own_settings(command):
    """The settings of a command that lie in no group, and what is declared of them."""
    settings = yaml.safe_load((CONF / f"{command}.yaml").read_text())
    settings = {
        key: value for key, value in settings.items() if key not in (*GROUPS, "defaults", "hydra")
    }
    return settings, importlib.import_module(COMMANDS[command]).SETTINGS


def numbers(node, prefix=""):
    """Keys of everything in plain settings that is a number, true, false, or a list of them."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if not str(key).startswith("_"):
                yield from numbers(value, f"{prefix}.{key}".lstrip("."))
    elif isinstance(node, list) and any(isinstance(each, Mapping) for each in node):
        for index, each in enumerate(node):
            yield from numbers(each, f"{prefix}[{index}]")
    else:
        entries = node if isinstance(node, list) else [node]
        if any(isinstance(each, int | float) for each in entries):
            yield prefix


def leaves(annotation, ranges=(), listed=False):
    """The numbers in an annotation: their ranges, and whether a list holds them."""
    inner = get_args(annotation)
    if arguments_of(annotation) is not None:
        return
    if get_origin(annotation) is Annotated:
        found = [each for each in inner if isinstance(each, Range)]
        yield from leaves(inner[0], (*ranges, *found), listed)
    elif get_origin(annotation) is Literal:
        return
    elif annotation in (int, float):
        yield annotation, ranges, listed
    else:
        within = listed or get_origin(annotation) is Sequence
        for each in inner:
            yield from leaves(each, ranges, within)


def outside(ranges):
    """Numbers that lie in none of the ranges."""
    found = [math.nan] if any(each.infinite for each in ranges) else [math.nan, math.inf, -math.inf]
    for each in ranges:
        found += [each.low - 1] if each.low is not None else []
        found += [each.high + 1] if each.high is not None else []
        found += [end for end in (each.above, each.below) if end is not None]
    return found


def wrong_values(value, annotation):
    """What a setting may not be, as the number that is meant or as an entry of its list."""
    found = list(leaves(annotation))
    for _, ranges, listed in found:
        whole = all(other is int for other, _, _ in found)
        assert ranges, f"{annotation} holds a number without a range"
        for number in [*outside(ranges), *([1.5] if whole else [])]:
            if not listed:
                yield number
            elif isinstance(value, list) and value and isinstance(value[0], list):
                yield [[number], *value[1:]]
            else:
                yield [number, *value[1:]] if isinstance(value, list) else [number]


def refuse(key, value, annotation):
    message = misfit(key, value, annotation)
    assert message is not None, f"{key}={value} is taken"
    assert message.startswith(f"{key}=") and "\n" not in message
    assert re.search(r" must (lie in [\[(].+[\])]|be .+)$", message), message


@pytest.mark.parametrize(("group", "name"), OPTIONS, ids=lambda value: value)
def test_every_number_of_an_option_is_declared_and_refused_outside(group, name):
    settings = option(group, name)
    known = {key: (value, annotation) for key, value, annotation in declared(settings)}
    undeclared = set(numbers(settings)) - known.keys()
    assert not {key for key in undeclared if not FREE.search(key)}
    for key, (value, annotation) in known.items():
        if not value and FREE.search(key):
            continue
        for wrong in wrong_values(value, annotation):
            refuse(key, wrong, annotation)
        if list(leaves(annotation)):
            for wrong in (True, "abc", {"a": 1}):
                if not fits("abc", annotation):  # words are among what it takes
                    refuse(key, wrong, annotation)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_number_of_a_command_is_declared_and_refused_outside(command):
    settings, own = own_settings(command)
    assert set(numbers(settings)) <= own.keys()
    require_declared(settings | interpolated(settings), own)
    for key, annotation in own.items():
        for wrong in ["no"] if annotation is bool else wrong_values(None, annotation):
            refuse(key, wrong, annotation)
            with pytest.raises(Mistake, match=f"^{re.escape(key)}="):
                require_declared(put(settings | interpolated(settings), key, wrong), own)


def interpolated(settings):
    """What presets or other settings say."""
    return {
        key: "preset" if value == MISSING else 1
        for key, value in settings.items()
        if value == MISSING or str(value).startswith("${")
    }


def put(settings, key, value):
    """The settings with another value, `[i]` for entries of lists."""
    changed = node = copy.deepcopy(settings)
    *parts, last = re.findall(r"[^.\[\]]+", key)
    for part in parts:
        node = node[int(part) if isinstance(node, list) else part]
    node[last] = value
    return changed


@pytest.mark.parametrize(("group", "name"), OPTIONS, ids=lambda value: value)
def test_the_first_wrong_number_of_a_configuration_is_named(group, name):
    settings = option(group, name)
    require_declared(settings)
    for key, value, annotation in list(declared(settings)):
        wrong = next(wrong_values(value, annotation), None) if not FREE.search(key) else None
        if wrong is not None:
            with pytest.raises(Mistake, match=f"^{re.escape(key)}="):
                require_declared(put(settings, key, wrong))


@pytest.mark.parametrize("preset", some(options("algorithm"), 6))
def test_presets_and_tuned_numbers_are_what_is_declared(preset):
    config: Any = yaml.safe_load(yaml.safe_dump(load_preset(preset)))
    require_declared(config, own_settings("train")[1])
    known = {key: annotation for key, _, annotation in declared(config)}
    for row in tuned(preset).values():
        for key in numbers(row):
            value = row
            for part in key.split("."):
                value = value[part]
            if key in known:
                assert misfit(key, value, known[key]) is None


@pytest.mark.parametrize(
    ("arguments", "expected"),
    some(
        [
            ({"agent.discount": 1.5}, "agent.discount=1.5 must lie in [0, 1]"),
            ({"agent.discount": -1}, "agent.discount=-1 must lie in [0, 1]"),
            ({"agent.discount": "nan"}, "agent.discount=nan must lie in [0, 1]"),
            ({"agent.tau": 5}, "agent.tau=5 must lie in (0, 1]"),
            (
                {"agent.hidden": "[256,0]"},
                "agent.hidden=[256, 0] must be a list, each entry a whole",
            ),
            ({"agent.critic_learning_rate": "-1e-3"}, "must be a number, above 0"),
            ({"agent.critic_learning_rate": "inf"}, "agent.critic_learning_rate=inf must be"),
            (
                {"agent.actor_learning_rate": "abc"},
                "agent.actor_learning_rate=abc must be a number",
            ),
            ({"seeds": 2, "filter.penalty": "[1,-1]"}, "filter.penalty=[1, -1] must be"),
            ({"world_model.terminal_head.batch": 1}, "world_model.terminal_head.batch=1 must be"),
            ({"dataset.subset.fraction": 2}, "dataset.subset.fraction=2 must lie in (0, 1]"),
            (
                {"dataset.mixture": "[{strength:2,random:0}]"},
                "dataset.mixture[0].strength=2 must lie",
            ),
            ({"threads": 0}, "threads=0 must be auto or a whole number, in [1, 1024]"),
            ({"updates": 10.5}, "updates=10.5 must be a whole number, at least 0"),
            ({"probe_starts": 1}, "probe_starts=1 must be 0 or a whole number, at least 2"),
            ({"value_gap.factor": "nan"}, "value_gap.factor=nan must be a number, above 1"),
            (
                {"updates": 10**20},
                "000 must be nearer to 0: whole numbers",
            ),
            ({"agent.critic_learning_rate": 10**62}, "must be nearer to 0"),
            ({"agent.hidden": "[9223372036854775807]"}, "must be nearer to 0"),
            ({"evaluate.episodes": 10**6}, "must be a whole number, in [1, 100000]"),
            ({"seed": 2**63}, "must be a whole number, in [0, 9223372036854775807]"),
        ],
        4,
    ),
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_the_python_door_refuses_the_same(arguments, expected):
    typed = [f"{key}={value}" for key, value in arguments.items()]
    with pytest.raises(Mistake, match=re.escape(expected)):
        reverie.make(*typed)


def test_classes_of_ones_own_are_refused_by_what_they_declare():
    class Own(SAC):
        def __init__(
            self, *, rows: Annotated[int, Range(2)], free: float | None = None, **sac: Any
        ):
            super().__init__(**sac)

    with pytest.raises(Mistake, match=r"^agent\.rows=1 must be a whole number, at least 2"):
        reverie.make(agent=partial(Own, rows=1), dataset="builtin/pendulum-mixed")
    with pytest.raises(Mistake, match=r"^world_model\.dropout=1 must lie in"):
        reverie.build(ProbabilisticEnsemble, dropout=1)
    assert fits(np.float32(0.5), Share) and fits(np.array([3, 4]), Sequence[Count])
    assert not fits(np.int64(0), Count)


def test_a_dataset_is_refused_before_anything_is_read():
    columns = {"observations": np.zeros((3, 2)), "actions": np.zeros((3, 1))}
    for wrong in (0, -5, 2.5, True):
        with pytest.raises(Mistake, match=r"^dataset\.max_episode_steps="):
            load(columns, max_episode_steps=wrong)
        with pytest.raises(Mistake, match=r"^dataset\.max_episode_steps="):
            load("file", path="/no/such/file.npz", max_episode_steps=wrong)


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (Positive, "a number, above 0"),
        (Count | None, "a whole number, at least 1 or null"),
        (Annotated[int, Range(1, 8)], "a whole number, in [1, 8]"),
        (Annotated[float, Range()], "a number, finite"),
        (Literal["auto"] | Count, "auto or a whole number, at least 1"),
        (Annotated[PerSeed, Range(0)], "a number or a list, each entry a number, at least 0"),
        (Annotated[Sequence[Positive], Pair()], "two entries, the lower one first"),
        (Annotated[Sequence[Count], Filled()], "a whole number, at least 1, not empty"),
    ],
)
def test_what_a_setting_may_be_is_said_in_words(annotation, words):
    assert describe(annotation).endswith(words)


@pytest.mark.parametrize(
    ("value", "annotation", "taken"),
    [
        (1, Share, True),
        (0, Share, False),
        (None, Share | None, True),
        ("auto", Literal["auto"] | Count, True),
        (True, Literal[1] | Positive, False),
        ([1.0, 2.0], Annotated[Sequence[Positive], Pair()], True),
        ([2.0, 1.0], Annotated[Sequence[Positive], Pair()], False),
        ([1.0], Annotated[Sequence[Positive], Pair()], False),
        ([1], Annotated[Sequence[Count], Filled()], True),
        ([], Annotated[Sequence[Count], Filled()], False),
        ([0.5, 0], Annotated[PerSeed, Range(above=0)], False),
        (math.inf, Annotated[float, Range(0, infinite=True)], True),
        (math.nan, float, False),
        ("x", "a name that nobody resolves", True),
        (None, NoneType, True),
        (10**13, Count, False),
        ([10**13], Sequence[Count], False),
        (10**13, Positive, True),
        (-1e39, Annotated[float, Range()], False),
        (2**62, Seed, True),
        (3, Mapping[str, object], False),
        ({"mass": 2}, Mapping[str, object], True),
    ],
)
def test_ranges_hold_what_lies_inside(value, annotation, taken):
    assert fits(value, annotation) is taken


def test_a_sweep_refuses_its_wrong_jobs_alone(train):
    done = train("-m", "agent.discount=1.5,0.9", "updates=20", "evaluate.every=0")
    assert done.returncode == 1
    assert "agent.discount=1.5 must lie in [0, 1]" in done.stderr and "1 finished" in done.stdout


def test_composed_runs_declare_all_their_numbers():
    config = load_preset("morec_mobile")
    known = {key for key, _, _ in declared(config)} | own_settings("train")[1].keys()
    assert compose_run([]) is not None
    assert set(numbers(config)) - known == set()
