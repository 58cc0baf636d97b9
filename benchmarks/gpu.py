"""All that only a GPU can show, in one call of at most eight minutes: `python -m benchmarks.gpu`.

Updates, ensemble and rollouts against the plain reference of `benchmarks.speed`, eager, compiled
and as CUDA graphs, for 1, 16 and 64 seeds; a round of diffusion samples as shipped against the
reference's 511 calls; every agent's numbers against the CPU's, with the same random numbers;
memory; a run that is killed and goes on. Writes one JSON file after every measurement, so that a
call that is cut off leaves what it had; what there was no time for is listed. `--quick` is a look
at small sizes, for which a CPU will do.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch.utils import _pytree as tree
from torch.utils._python_dispatch import TorchDispatchMode

from reverie import make
from reverie.agents.base import Agent
from reverie.benchmarks.claims.report import RESULTS
from reverie.benchmarks.speed.agents import agent_updates, make_clone
from reverie.benchmarks.speed.hardware import cpu_name, describe, slug
from reverie.benchmarks.speed.quantities import (
    REFERENCE,
    SPEC,
    Quantity,
    Sizes,
    ensemble_rows,
    make_agent,
    make_model,
    random_rows,
    rollout_transitions,
)
from reverie.benchmarks.speed.sampler_report import DEFAULT, REFERENCE_STEPS, shipped_steps
from reverie.benchmarks.speed.timing import Contender, finish, race
from reverie.datasets.replay import Mixture, Replay
from reverie.training.compilation import pick_device, wrapper
from reverie.training.files import write_json
from reverie.training.launch.mistakes import one_line_errors
from reverie.training.launch.options import build_option, learners, load_option

LIMIT = 480.0
"""Seconds of a call; a lent machine is given back then."""
TOLERANCE = 2e-3
"""Largest difference between devices after the updates, as a share of a tensor's largest entry."""


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        seeds: trained side by side, each number in turn.
        sizes: of batches, data and rollouts.
        rounds, seconds: turns of each contender, and how long one is.
        segments: of a diffusion round.
        updates: of agents that are compared with the CPU.
        hidden: widths of the compared networks.
    """

    seeds: tuple[int, ...]
    sizes: Sizes
    rounds: int
    seconds: float
    segments: int
    updates: int
    hidden: int


FULL = Effort(
    seeds=(1, 16, 64),
    sizes=Sizes(
        batch=256, stored_rows=1_000_000, many_seeds=16, starts=50_000, horizon=5, matrix=8192
    ),
    rounds=5,
    seconds=0.4,
    segments=1024,
    updates=5,
    hidden=256,
)
QUICK = Effort(
    seeds=(1, 2),
    sizes=Sizes(batch=32, stored_rows=1_000, many_seeds=2, starts=64, horizon=2, matrix=64),
    rounds=1,
    seconds=0.02,
    segments=2,
    updates=2,
    hidden=16,
)


class SameNumbers(TorchDispatchMode):
    """Draws random numbers on the host wherever they are asked for, so that devices agree."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in function.tags:
            return function(*args, **kwargs)
        tensors = [x for x in tree.arg_tree_leaves(*args) if isinstance(x, Tensor)]
        device = torch.device(kwargs.get("device") or (tensors[0].device if tensors else "cpu"))
        if "device" in kwargs:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        drawn = function(*tree.tree_map_only(Tensor, Tensor.cpu, args), **kwargs)
        if function._schema.is_mutable:
            return args[0].copy_(drawn)
        return tree.tree_map_only(Tensor, lambda x: x.to(device), drawn)


def speeds(effort: Effort, device: torch.device, seeds: int, compiling: bool) -> dict[str, Any]:
    """Rates of sampling and updating, summed over seeds."""
    quantity = agent_updates("sac", seeds, effort.sizes, device, compiling)
    if compiling and seeds == effort.seeds[0]:
        rows = random_rows(effort.sizes.stored_rows, device)
        mixture = Mixture({"real": Replay.of(rows)}, {"real": effort.sizes.batch}, seeds=seeds)
        mixture, agent = mixture.to(device), make_agent(seeds, device)
        plain = torch.compile(lambda: agent.update(mixture.sample()), fullgraph=True, dynamic=False)
        quantity.contenders["compiled without CUDA graphs"] = Contender(plain, seeds)
    return raced(quantity, effort, device)


def raced(quantity: Quantity, effort: Effort, device: torch.device) -> dict[str, Any]:
    """Rates of one quantity's contenders, and their ratios to the reference."""
    rates = race(quantity.contenders, rounds=effort.rounds, seconds=effort.seconds, device=device)
    return {
        "unit": quantity.unit,
        "rates": {name: rates.median(name) for name in quantity.contenders},
        "ratios": {
            name: sorted(rates.ratios(name, REFERENCE))
            for name in quantity.contenders
            if name != REFERENCE
        },
    }


def diffusion(effort: Effort, device: torch.device, compiling: bool) -> dict[str, Any]:
    """Seconds for one round of segments, by the shipped sampler and by the reference's steps.

    The generator is as it starts, for its numbers do not change the time.
    """
    changes: dict[str, Any] = {
        "noise_distribution": load_option("noise_distribution", "log_normal")
    }
    option = "trajectory_small" if effort is QUICK else "trajectory"
    model = build_option("generator", option, changes=changes, spec=SPEC, seeds=1, seed=0)
    model.to(device)
    if compiling:
        model.compile_update(wrapper(True, device))
    noise = torch.randn(effort.segments, *model.records.event, device=device)
    found: dict[str, Any] = {}
    reference_steps = 8 if effort is QUICK else REFERENCE_STEPS
    for name, option, steps in (
        ("shipped", DEFAULT, shipped_steps()),
        ("reference", "heun", reference_steps),
    ):
        calls = 0

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return model.denoise(x, sigma)

        build_option("sampler", option, changes={"steps": 5}).sample(denoise, noise)  # warm-up
        sampler, calls = build_option("sampler", option, changes={"steps": steps}), 0
        finish(device)
        begun = time.perf_counter()
        sampler.sample(denoise, noise)
        finish(device)
        found[name] = {"calls": calls, "seconds": time.perf_counter() - begun}
    found["ratio"] = found["reference"]["seconds"] / found["shipped"]["seconds"]
    return found


def agreement(effort: Effort, device: torch.device) -> dict[str, Any]:
    """Differences of every agent's parameters from the CPU's, after updates by the same numbers."""
    found = {option: differs(option, effort, device) for option in learners()}
    return {"largest": found, "tolerance": TOLERANCE, "holds": max(found.values()) <= TOLERANCE}


def differs(option: str, effort: Effort, device: torch.device) -> float:
    """Largest difference of one agent, as a share of the largest entry of its tensor."""
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    agent: Agent = build_option(
        "agent", option, changes={"hidden": [effort.hidden] * 2}, spec=SPEC, seeds=1, updates=1000
    )
    model = make_model(cpu)
    rows = agent.complete(random_rows(effort.sizes.stored_rows, cpu)[None])[0]
    other, other_model = copy.deepcopy(agent).to(device), copy.deepcopy(model).to(device)
    states = []
    for learner, of, where in ((agent, model, cpu), (other, other_model, device)):
        learner.attach(of)
        learner.follow(make_clone(where))
        mixture = Mixture({"real": Replay.of(rows)}, {"real": effort.sizes.batch}, seeds=1)
        mixture.to(where)
        torch.manual_seed(1)
        with SameNumbers():
            for _ in range(effort.updates):
                learner.update(mixture.sample())
        states.append(learner.state_dict())
    return max(
        ((theirs.cpu().double() - ours.double()).abs().max() / ours.abs().max().clamp(min=1e-3))
        .nan_to_num(torch.inf)
        .item()
        for ours, theirs in zip(*(state.values() for state in states), strict=True)
    )


def memory(effort: Effort, device: torch.device, seeds: int) -> dict[str, Any]:
    """Bytes that updates of so many seeds take at most, beside the data; None on a CPU."""
    if device.type != "cuda":
        return {"bytes": None}
    rows = random_rows(effort.sizes.stored_rows, device)
    mixture = Mixture({"real": Replay.of(rows)}, {"real": effort.sizes.batch}, seeds=seeds)
    mixture.to(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    agent = make_agent(seeds, device)
    for _ in range(3):
        agent.update(mixture.sample())
    return {"bytes": torch.cuda.max_memory_allocated(device) - before}


class _Killed(Exception):
    pass


def resume(effort: Effort, device: torch.device, compiling: bool) -> dict[str, Any]:
    """Whether a run that was killed goes on to the bits of one that was not."""
    updates = 40

    def run(folder: str, kill: bool) -> dict[str, Tensor]:
        settings: dict[str, Any] = {
            **{"updates": updates, "device": str(device), "compile": compiling, "seeds": 2},
            **{"checkpoint_every": updates // 2, "log_every": 10, "probe_starts": 0},
            **{"evaluate": {"every": 0}, "value_gap": {"starts": 0}, "verdict": {"starts": 0}},
            "cache": f"{folder}/cache",
            "agent": {"hidden": [effort.hidden] * 2},
            "source": {"starts": 500, "every": 10, "horizon": 2},
            "world_model": {
                **{"hidden": [16], "weight_decay": [0.0, 0.0], "max_epochs": 1},
                **{"members": 2, "elites": 1},
            },
        }
        made = make("algorithm=mopo", **settings)
        update = made.agent.update
        done = 0

        def counted(batch: Any) -> Any:
            nonlocal done
            done += 1
            if kill and done > updates * 3 // 4:
                raise _Killed
            return update(batch)

        if kill:
            made.compile = lambda function: function
            made.agent.update = counted  # type: ignore[method-assign]
        made.train(f"{folder}/run", Console(quiet=True))
        return made.agent.state_dict()

    with TemporaryDirectory() as folder, TemporaryDirectory() as other:
        whole = run(folder, False)
        try:
            run(other, True)
        except _Killed:
            pass
        else:
            raise RuntimeError("the run was not killed")
        again = run(other, False)
        same = all(torch.equal(value, again[name]) for name, value in whole.items())
    return {"updates": updates, "compiled": compiling, "holds": same}


def measurements(
    effort: Effort, device: torch.device, compiling: bool
) -> Iterator[tuple[str, float, Callable[[], dict[str, Any]]]]:
    """Name, seconds that it may take on a GPU, and what does it; the most wanted first."""
    warm_up = 40.0 if compiling else 0.0
    for seeds in effort.seeds:
        yield (
            f"updates, {seeds} seeds",
            15 + warm_up * (2 if seeds == effort.seeds[0] else 1),
            lambda seeds=seeds: speeds(effort, device, seeds, compiling),  # type: ignore[misc]
        )
    yield "agreement with the CPU", 30, lambda: agreement(effort, device)
    # A killed run is compared as it trains; its compiled variant is the GPU's default.
    yield "resume", 30, lambda: resume(effort, device, False)
    yield "diffusion round", 30 + warm_up, lambda: diffusion(effort, device, compiling)
    for seeds in effort.seeds:
        yield (
            f"memory, {seeds} seeds",
            5,
            lambda seeds=seeds: memory(effort, device, seeds),  # type: ignore[misc]
        )
    for name, quantity in (
        ("rollouts", rollout_transitions),
        ("ensemble rows", ensemble_rows),
    ):
        yield (
            name,
            15 + warm_up,
            lambda quantity=quantity: raced(  # type: ignore[misc]
                quantity(effort.sizes, device, compiling), effort, device
            ),
        )


def main() -> int:
    """Measure, print, write; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes; a minute on a CPU")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--compile", choices=["auto", "true", "false"], default="auto")
    parser.add_argument("--seconds", type=float, default=LIMIT, help="most that it may take")
    parser.add_argument("--output", type=Path, help="JSON file; default benchmarks/results/")
    asked = parser.parse_args()
    device, begun, console = pick_device(asked.device), time.monotonic(), Console()
    compiling = device.type == "cuda" if asked.compile == "auto" else asked.compile == "true"
    effort = QUICK if asked.quick else FULL
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    quick = "-quick" if asked.quick else ""
    output = asked.output or RESULTS / f"gpu-{slug(name)}{quick}.json"
    report: dict[str, Any] = {
        "benchmark": "gpu",
        "date": time.strftime("%Y-%m-%d"),
        "quick": asked.quick,
        "hardware": describe(device),
        "compiled": compiling,
        "effort": asdict(effort),
        "found": {},
        "left_out": [],
    }
    for key, least, measure in measurements(effort, device, compiling):
        if time.monotonic() - begun + least > asked.seconds:
            report["left_out"].append(key)
            continue
        start = time.monotonic()
        try:
            found = measure()
        except Exception as error:  # the others are wanted all the same
            found = {"error": f"{type(error).__name__}: {error}", "holds": False}
            console.print_exception()
        finally:
            torch._dynamo.reset()
        report["found"][key] = found | {"took": time.monotonic() - start}
        report["claims"] = claims(report["found"])
        report["seconds"] = time.monotonic() - begun
        write_json(output, report)
        console.print(f"{key}: {found}", highlight=False, soft_wrap=True)
    console.print(f"written: {output}", highlight=False, soft_wrap=True)
    return 0 if all(each.get("holds") is not False for each in report["found"].values()) else 1


def claims(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What was found in the words of the results page."""
    lines = []
    for key, each in found.items():
        expected, holds = "-", each.get("holds")
        if "error" in each:
            measured = each["error"]
        elif "ratios" in each:
            ratios = {name: values[len(values) // 2] for name, values in each["ratios"].items()}
            measured = ", ".join(f"{name} {ratio:.1f}x" for name, ratio in ratios.items())
            measured += f" of {each['rates'][REFERENCE]:,.0f} {each['unit']}"
        elif "ratio" in each:
            shipped, reference = each["shipped"], each["reference"]
            expected = f"faster than {reference['calls']} calls"
            measured = f"{shipped['calls']} calls, {each['ratio']:.1f}x"
        elif "largest" in each:
            expected = f"parameters within {each['tolerance']:g} of their largest"
            worst = max(each["largest"], key=each["largest"].get)
            measured = f"{each['largest'][worst]:.1e} ({worst})"
        elif "bytes" in each:
            size = each["bytes"]
            measured = "-" if size is None else f"{size / 2**20:,.0f} MiB"
        else:
            expected, measured = "same bits", "same" if holds else "other"
        lines.append(
            {
                "text": key,
                "expected": expected,
                "measured": measured,
                "holds": holds,
                "source": "ours",
            }
        )
    return lines


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
