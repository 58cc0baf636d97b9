"""`format=c`: C99 without memory of its own, and a program that tests it."""

import os
import re
import shutil
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from reverie.envs.specs import Spec
from reverie.mistake import Mistake, writing
from reverie.training.export.columns import in_comment
from reverie.training.export.controller import TOLERANCE, Controller, Measured, Step

FLAGS = ("-std=c99", "-O3", "-Wall", "-Wextra", "-Werror", "-pedantic")
_COMPILERS = ("cc", "gcc", "clang")
_SECONDS = 300
"""Longest time that a compiler or the test may take."""

_HEADER = """\
/*
 * A trained policy: a raw observation in, an action in the units of the plant out, inside its box.
 * Needs math.h, no memory but the stack ({stack} bytes) and keeps no state between calls.
 * An observation that is not a number gives an action that is none either: check sensors before.
 *
{columns}
 */
#ifndef REVERIE_POLICY_H
#define REVERIE_POLICY_H

#define POLICY_OBSERVATIONS {obs_dim}
#define POLICY_ACTIONS {action_dim}

#ifdef __cplusplus
extern "C" {{
#endif

void policy(const float obs[POLICY_OBSERVATIONS], float action[POLICY_ACTIONS]);
{keeper}
#ifdef __cplusplus
}}
#endif

#endif
"""
_KEEPER = """
/*
 * The same with the history kept for you: what is seen now in, once a control step. One structure a
 * plant. policy_start before the first step and wherever the plant starts anew; policy_took after a
 * step in which the plant did something else than it was told, in its own units.
 */
#define POLICY_SEEN {seen}

typedef struct {{
    float obs[POLICY_OBSERVATIONS];
    float action[POLICY_ACTIONS];
    int begun;
}} policy_history;

void policy_start(policy_history *history);
void policy_next(policy_history *history, const float seen[POLICY_SEEN],
                 float action[POLICY_ACTIONS]);
void policy_took(policy_history *history, const float action[POLICY_ACTIONS]);
"""
_KEEPER_SOURCE = """
void policy_start(policy_history *history)
{{
    history->begun = 0;
}}

void policy_next(policy_history *history, const float seen[POLICY_SEEN],
                 float action[POLICY_ACTIONS])
{{
    if (!history->begun) {{
        for (int i = 0; i < {past}; i++)
            history->obs[i] = seen[i % POLICY_SEEN];
        {before}
        history->begun = 1;
    }} else {{
        for (int i = {past} - 1; i >= POLICY_SEEN; i--)
            history->obs[i] = history->obs[i - POLICY_SEEN];
        for (int i = 0; i < POLICY_SEEN; i++)
            history->obs[i] = seen[i];
        {after}
    }}
    policy(history->obs, action);
    policy_took(history, action);
}}

void policy_took(policy_history *history, const float action[POLICY_ACTIONS])
{{
    for (int i = 0; i < POLICY_ACTIONS; i++)
        history->action[i] = action[i];
}}
"""
_BEFORE = """for (int i = {past}; i < POLICY_OBSERVATIONS; i++)
            history->obs[i] = {box}_middle[(i - {past}) % POLICY_ACTIONS];"""
_AFTER = """for (int i = POLICY_OBSERVATIONS - 1; i >= {past} + POLICY_ACTIONS; i--)
            history->obs[i] = history->obs[i - POLICY_ACTIONS];
        for (int i = 0; i < POLICY_ACTIONS; i++)
            history->obs[{past} + i] = history->action[i];"""
_FOLLOWING = """\
    policy_history history;
    policy_start(&history);
    for (int n = 0; n < {steps}; n++) {{
        policy_next(&history, frames[n], action);
        for (int a = 0; a < POLICY_ACTIONS; a++) {{
            const float difference = fabsf(action[a] - followed[n][a]) / widths[a];
            if (!(difference <= {tolerance}f))
                failed++;
            if (difference > largest)
                largest = difference;
        }}
    }}
"""
_TEST = """\
/* Compares policy.c with what the policy did where it was exported; an argument is how many
 * decisions to time. Ends with 1 where they differ by more than {tolerance:g} of the box. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "policy.h"

#define TESTS {tests}

{arrays}
int main(int argc, char **argv)
{{
    float action[POLICY_ACTIONS];
    float largest = 0.0f;
    int failed = 0;
    for (int n = 0; n < TESTS; n++) {{
        policy(observations[n], action);
        for (int a = 0; a < POLICY_ACTIONS; a++) {{
            const float difference = fabsf(action[a] - expected[n][a]) / widths[a];
            if (!(difference <= {tolerance}f))
                failed++;
            if (difference > largest)
                largest = difference;
        }}
    }}
{following}    printf("failed %d\\n", failed);
    printf("largest difference %.9g of the action box\\n", (double)largest);
    if (argc > 1) {{
        const long decisions = atol(argv[1]);
        float sum = 0.0f;
        const clock_t begun = clock();
        for (long n = 0; n < decisions; n++) {{
            policy(observations[n % TESTS], action);
            sum += action[0];
        }}
        const double seconds = (double)(clock() - begun) / CLOCKS_PER_SEC;
        printf("microseconds per decision %.9g (sum %g)\\n", seconds / (double)decisions * 1e6,
               (double)sum);
    }}
    return failed > 0;
}}
"""


def export(controller: Controller, folder: Path, decisions: int) -> Measured:
    """Write policy.h, policy.c and policy_test.c; compile and run them where that is possible."""
    spec = controller.spec
    for name, text in (
        ("policy.h", header(spec, stack=8 * _widest(controller))),
        ("policy.c", source(controller)),
        ("policy_test.c", test(controller)),
    ):
        (folder / name).write_text(text, encoding="ascii")
    compiler = find_compiler()
    return Measured(None, None) if compiler is None else run_test(compiler, folder, decisions)


def find_compiler() -> str | None:
    """The compiler of the environment's CC, or a usual one; None where there is none."""
    named = os.environ.get("CC")
    return next(filter(None, map(shutil.which, (named,) if named else _COMPILERS)), None)


def run_test(compiler: str, folder: Path, decisions: int) -> Measured:
    """Compile the files of a folder elsewhere, and let them test themselves.

    Raises:
        Mistake: the compiler refuses, or the program fails.
    """
    with TemporaryDirectory() as place:
        program = Path(place) / "policy_test"
        sources = [str(folder / name) for name in ("policy.c", "policy_test.c")]
        _run([compiler, *FLAGS, *sources, "-o", str(program), "-lm"])
        printed = _run([str(program), str(decisions)])
    largest, time = (
        float(re.findall(rf"{words} (\S+)", printed)[0])
        for words in ("largest difference", "microseconds per decision")
    )
    return Measured(largest, time)


def _run(command: list[str]) -> str:
    try:
        with writing(Path(command[0]), "give CC=... a compiler that works here"):
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_SECONDS, check=False
            )
    except subprocess.TimeoutExpired as error:
        raise Mistake(
            f"{command[0]} took more than {_SECONDS} s; export a smaller policy, or set CC=... to "
            "another compiler"
        ) from error
    if done.returncode:
        raise Mistake(
            f"{command[0]} ended with {done.returncode}: {(done.stderr + done.stdout)[-500:]}; "
            "set CC=... to another compiler"
        )
    return done.stdout


def header(spec: Spec, stack: int) -> str:
    """The interface, with what the numbers are."""
    columns = [
        *(
            f" * {line}"
            for sentence in (spec.how_to_play, spec.how_to_see)
            for line in textwrap.wrap(sentence, 96)
        ),
        *(f" * obs[{i}]: {in_comment(label)}" for i, label in enumerate(spec.obs_labels)),
        *(
            f" * action[{i}]: {in_comment(label)}, from {low:.9g} to {high:.9g}"
            for i, (label, low, high) in enumerate(
                zip(spec.action_labels, spec.action_low, spec.action_high, strict=True)
            )
        ),
    ]
    return _HEADER.format(
        columns="\n".join(columns),
        obs_dim=spec.obs_dim,
        action_dim=spec.action_dim,
        stack=stack,
        keeper=_KEEPER.format(seen=spec.newest_dim) if spec.has_history else "",
    )


def source(controller: Controller) -> str:
    """The function, its weights as constants."""
    constants, lines = [], []
    width, widest = controller.spec.obs_dim, _widest(controller)
    now, other = "x", "y"
    for number, step in enumerate(controller.steps):
        prefix = f"{step.kind}{number}"
        constants += [_array(f"{prefix}_{name}", v) for name, v in step.arrays.items() if v.ndim]
        lines.append(f"    /* {step.kind} */")
        if step.kind == "linear":
            inputs, width = step.arrays["weight"].shape
            lines += _linear(prefix, now, other, inputs, width)
            now, other = other, now
        else:
            lines += _LAYERS[step.kind](step, prefix, now, width)
    body = "\n".join(lines)
    return (
        '/* See policy.h. */\n#include <math.h>\n\n#include "policy.h"\n\n'
        + "\n".join(constants)
        + f"""
void policy(const float obs[POLICY_OBSERVATIONS], float action[POLICY_ACTIONS])
{{
    float x[{widest}], y[{widest}];
    for (int i = 0; i < POLICY_OBSERVATIONS; i++)
        x[i] = obs[i];
{body}
    for (int i = 0; i < POLICY_ACTIONS; i++)
        action[i] = {now}[i];
}}
"""
        + _keeper(controller)
    )


def _keeper(controller: Controller) -> str:
    """What keeps a history."""
    spec = controller.spec
    if not spec.has_history:
        return ""
    known = {"past": spec.past_actions.start, "box": f"box{len(controller.steps) - 1}"}
    of_actions = [
        each.format(**known) if spec.stacked_actions else "" for each in (_BEFORE, _AFTER)
    ]
    before, after = of_actions
    return _KEEPER_SOURCE.format(**known, before=before, after=after)


def test(controller: Controller) -> str:
    """The program that compares."""
    arrays = [
        _array("observations", controller.observations),
        _array("expected", controller.actions),
        _array("widths", controller.widths),
    ]
    following = ""
    if steps := len(controller.followed):
        arrays += [_array("frames", controller.frames), _array("followed", controller.followed)]
        following = _FOLLOWING.format(steps=steps, tolerance=TOLERANCE)
    return _TEST.format(
        tests=len(controller.observations),
        arrays="\n".join(arrays),
        tolerance=TOLERANCE,
        following=following,
    )


def _widest(controller: Controller) -> int:
    linear = [step.arrays["weight"] for step in controller.steps if step.kind == "linear"]
    return max(controller.spec.obs_dim, *(weight.shape[1] for weight in linear))


def _linear(prefix: str, now: str, other: str, inputs: int, outputs: int) -> list[str]:
    # Weights lie by input, so that compilers may take several outputs at once.
    return [
        f"    for (int j = 0; j < {outputs}; j++)",
        f"        {other}[j] = {prefix}_bias[j];",
        f"    for (int i = 0; i < {inputs}; i++)",
        f"        for (int j = 0; j < {outputs}; j++)",
        f"            {other}[j] += {now}[i] * {prefix}_weight[i][j];",
    ]


def _each(expression: str) -> Callable[[Step, str, str, int], list[str]]:
    """A loop over numbers; `{x}` is one of them and `{p}` the layer's prefix."""

    def lines(step: Step, prefix: str, now: str, width: int) -> list[str]:
        text = expression.format(x=f"{now}[i]", p=prefix)
        return [f"    for (int i = 0; i < {width}; i++)", f"        {now}[i] = {text};"]

    return lines


def _layer_norm(step: Step, prefix: str, now: str, width: int) -> list[str]:
    epsilon = _number(step.arrays["epsilon"])
    return [
        "    {",
        "        float mean = 0.0f, variance = 0.0f;",
        f"        for (int i = 0; i < {width}; i++)",
        f"            mean += {now}[i];",
        f"        mean /= {width}.0f;",
        f"        for (int i = 0; i < {width}; i++)",
        f"            variance += ({now}[i] - mean) * ({now}[i] - mean);",
        f"        variance = sqrtf(variance / {width}.0f + {epsilon});",
        f"        for (int i = 0; i < {width}; i++)",
        f"            {now}[i] = ({now}[i] - mean) / variance * {prefix}_scale[i]"
        f" + {prefix}_shift[i];",
        "    }",
    ]


def _box(step: Step, prefix: str, now: str, width: int) -> list[str]:
    return [
        f"    for (int i = 0; i < {width}; i++) {{",
        f"        const float u = {prefix}_middle[i] + {prefix}_half[i] * {now}[i];",
        f"        const float least = u < {prefix}_low[i] ? {prefix}_low[i] : u;",
        f"        {now}[i] = least > {prefix}_high[i] ? {prefix}_high[i] : least;",
        "    }",
    ]


_LAYERS: dict[str, Callable[[Step, str, str, int], list[str]]] = {
    "standardise": _each("({x} - {p}_mean[i]) / {p}_scale[i]"),
    "relu": _each("{x} < 0.0f ? 0.0f : {x}"),  # which leaves NaN as it is
    "silu": _each("{x} / (1.0f + expf(-{x}))"),
    "tanh": _each("tanhf({x})"),
    "gelu": _each(
        "0.5f * {x} * (1.0f + tanhf(0.7978845608f * ({x} + 0.044715f * {x} * {x} * {x})))"
    ),
    "leaky_relu": _each("{x} < 0.0f ? 0.01f * {x} : {x}"),
    "symlog": _each("copysignf(log1pf(fabsf({x})), {x})"),
    "round": _each("rintf({x})"),
    "layer_norm": _layer_norm,
    "box": _box,
}


def _array(name: str, values: np.ndarray) -> str:
    sizes = "".join(f"[{size}]" for size in values.shape)
    return f"static const float {name}{sizes} = {{\n" + ",\n".join(_rows(values)) + "\n};\n"


def _rows(values: np.ndarray) -> Iterator[str]:
    for row in values if values.ndim > 1 else values[None]:
        texts = [_number(each) for each in row]
        lines = [", ".join(texts[start : start + 6]) for start in range(0, len(texts), 6)]
        inside = ",\n    ".join(lines)
        yield f"    {{{inside}}}" if values.ndim > 1 else f"    {inside}"


def _number(value: np.floating | np.ndarray) -> str:
    """A float32 with all its digits."""
    text = f"{float(value):.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"
