"""How the commands start and fail: one clear line for a mistake, and a non-zero exit."""

import difflib
import fnmatch
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import yaml
from torch import Tensor

from reverie.agents.base import Agent
from reverie.envs import extras
from reverie.training.launch.options import CONF, options
from reverie.training.run_directory import flat

COUNTS = {
    "seed": 0,
    "seeds": 1,
    "updates": 1,
    "batch_size": 1,
    "evaluate.every": 0,
    "evaluate.episodes": 1,
    "value_gap.starts": 0,
    "lipschitz.states": 0,
    "lipschitz.steps": 1,
    "lipschitz.samples": 1,
    "log_every": 1,
    "checkpoint_every": 0,
}
"""Settings that are whole numbers, and the least they may be."""

PACKAGES = {
    "regulariser": "agent.regulariser",
    "noise_law": "generator.noise_law",
    "condition": "generator.condition",
    "warm_start": "source.warm_start",
}
"""Groups whose settings do not lie under their own name."""

TRACEBACK = "REVERIE_TRACEBACK"
"""Environment variable; 1 shows the traceback of every error."""
EXPECTED = (ValueError, OSError, RuntimeError, FloatingPointError, ModuleNotFoundError)
"""Errors that say themselves what to do; anything else is a defect and shows its traceback."""


def run(main: Callable[[], Any]) -> None:
    """Run a command; what Hydra refuses ends it with one line as well."""
    # Hydra then raises instead of printing its own abbreviated traceback.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    with one_line_errors():
        sys.argv[1:] = [expand_glob(argument) for argument in sys.argv[1:]]
        main()


def expand_glob(argument: str) -> str:
    """Turn `group=glob(folder/pattern)` into the list of options it means.

    Hydra's own glob does not look into the folders of a group and then launches nothing.

    Raises:
        ValueError: nothing matches.
    """
    found = re.fullmatch(r"(\w+)=glob\((.*/.*)\)", argument)
    if not found:
        return argument
    group, pattern = found.groups()
    matching = fnmatch.filter(options(group), pattern)
    if not matching:
        raise ValueError(f"no option of {group} matches {pattern}; {_available(group, pattern)}")
    return f"{group}={','.join(matching)}"


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with one line and status 1 for an error that a user can mend.

    Defects keep their traceback, and REVERIE_TRACEBACK=1 shows it for every error.
    """
    try:
        yield
    except KeyboardInterrupt:
        fail("interrupted; run the same command again to go on from the last checkpoint", 130)
    except Exception as error:
        message = None if os.environ.get(TRACEBACK) == "1" else explain(error)
        if message is None:
            raise
        fail(message)


def build(name: str, constructor: Callable[..., Any], **run_time: Any) -> Any:
    """Call what the configuration made of a node, and name the node where its values do not fit."""
    try:
        return constructor(**run_time)
    except TypeError as error:
        raise ValueError(
            f"{name} cannot be built: {error}; check the values and types under {name} "
            "(`python -m reverie.train --cfg job` shows them)"
        ) from error


def fail(message: str, status: int = 1) -> None:
    """End the process with one line."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


def explain(error: BaseException) -> str | None:
    """One line for an error a user can mend, None for a defect of the program."""
    name = type(error).__name__
    if name in ("ConfigCompositionException", "OverrideParseException", "MissingConfigException"):
        return _explain_composition(error)
    if name == "InstantiationException" and error.__cause__ is not None:
        return explain(error.__cause__)
    if name in ("MissingMandatoryValue", "InterpolationKeyError"):
        key = getattr(error, "full_key", None) or str(error).splitlines()[0]
        return f"{key} has no value; give it on the command line, as {key}=..."
    if isinstance(error, TypeError) and "unexpected keyword argument" in str(error):
        return f"{error}; remove that key from the configuration"
    if isinstance(error, EXPECTED):
        return " ".join(str(error).split()) or name
    return None


def _explain_composition(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines)
    option = re.search(r"Could not find '([^']+)'", text)
    if option:
        group, _, wrong = option.group(1).partition("/")
        if group == "hydra":  # its own groups have two levels, and its message lists the options
            group, _, wrong = option.group(1).rpartition("/")
            offered = re.search(r"Available options in '[^']*': (.*?) Config search path", text)
            known = f"options: {offered.group(1) if offered else ''}"
            if group == "hydra/launcher":
                extra = wrong.partition("_")[0]
                if extra in ("submitit", "ray"):
                    known += f"; to get it: {extras.remedy(extra)}"
                if extra == "ray":  # it asks for packages that conflict with ours
                    known += " and pip install --no-deps hydra-ray-launcher"
                known += "; docs/guide.md#sweeps says how to install launchers"
            return f"{group}={wrong} is not there; {known}"
        return f"{group}={wrong} is not there; {_available(group, wrong)}"
    key = re.search(r"Could not override '([^']+)'", text)
    if key:
        return (
            f"there is no setting '{key.group(1)}'{_closest(key.group(1))}; "
            "`python -m reverie.train --cfg job` lists all of them"
        )
    return text


def _available(group: str, wrong: str) -> str:
    offered = options(group)
    close = difflib.get_close_matches(wrong, offered, 3)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"options: {', '.join(offered[:12])}{', ...' if len(offered) > 12 else ''}"


def _closest(wrong: str) -> str:
    keys = {path.name for path in CONF.iterdir() if path.is_dir()}
    for path in CONF.rglob("*.yaml"):
        folder = PACKAGES.get(path.relative_to(CONF).parts[0], path.relative_to(CONF).parts[0])
        if folder in ("tuned", "algorithm", "hydra"):  # presets of settings that stand elsewhere
            continue
        names = flat(yaml.safe_load(path.read_text()) or {})
        keys |= {name if path.parent == CONF else f"{folder}.{name}" for name in names}
    if wrong in keys:
        return f": the chosen option of {wrong.split('.')[0]} has none"
    close = difflib.get_close_matches(wrong, sorted(keys), 2, cutoff=0.7)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def pick_device(choice: str) -> torch.device:
    """Resolve `device=auto` and refuse a GPU that is not there."""
    if choice == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(choice)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={choice}, but torch sees no CUDA device; use device=cpu")
    return device


def policy_on(agent: Agent, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The deterministic policy as a function of observations on the CPU."""
    return lambda obs: agent.act(obs.to(device), deterministic=True).cpu()


def require_integers(config: Mapping[str, Any], counts: Mapping[str, int] = COUNTS) -> None:
    """Refuse words and fractions where the configuration counts something.

    Args:
        config: nested settings.
        counts: dotted names of settings, and the least they may be.

    Raises:
        ValueError: names the setting, its value and what it must be.
    """
    settings = flat(config)
    for name, least in counts.items():
        value = settings[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name}={value} must be a whole number, at least {least}")
