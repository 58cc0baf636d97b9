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
from reverie.training.launch import help
from reverie.training.launch.hyperparameters import refusal
from reverie.training.launch.options import CONF, PACKAGES, one_spelling, options
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

TRACEBACK = "REVERIE_TRACEBACK"
"""Environment variable; 1 shows the traceback of every error."""
EXPECTED = (ValueError, OSError, RuntimeError, FloatingPointError, ModuleNotFoundError)
"""Errors that say themselves what to do; anything else is a defect and shows its traceback."""


def run(main: Callable[[], Any]) -> None:
    """Run a command; what Hydra refuses ends it with one line as well."""
    # Hydra then raises instead of printing its own abbreviated traceback.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    help.register()
    with one_line_errors():
        sys.argv[1:] = one_spelling([expand_glob(argument) for argument in sys.argv[1:]])
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
            "(`python train.py --cfg job` shows them)"
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
                known += "; docs/guide.md#sweeps says how to install more"
            return f"{group}={wrong} is not there; {known}"
        return f"{group}={wrong} is not there; {_available(group, wrong)}"
    key = re.search(r"Could not override '([^']+)'", text)
    if key:
        return _explain_key(key.group(1))
    return text


def _available(group: str, wrong: str) -> str:
    offered = options(group)
    close = difflib.get_close_matches(wrong, offered, 3)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"options: {', '.join(offered[:12])}{', ...' if len(offered) > 12 else ''}"


def _explain_key(wrong: str) -> str:
    groups = [path.name for path in CONF.iterdir() if path.is_dir()]
    keys = set(groups)
    for path in CONF.rglob("*.yaml"):
        folder = PACKAGES.get(path.relative_to(CONF).parts[0], path.relative_to(CONF).parts[0])
        if folder in ("tuned", "algorithm", "hydra"):  # presets of settings that stand elsewhere
            continue
        names = flat(yaml.safe_load(path.read_text()) or {})
        keys |= {name if path.parent == CONF else f"{folder}.{name}" for name in names}
    if wrong in keys:  # other options have it
        typed = dict(each.split("=", 1) for each in sys.argv if "=" in each)
        # A group of one option is part of another and leaves no choice.
        several = [group for group in groups if len(options(group)) > 1]
        return refusal(wrong, wrong, {group: typed.get(group) for group in several})
    close = difflib.get_close_matches(wrong, sorted(keys), 2, cutoff=0.7)
    hint = f" (did you mean {' or '.join(close)}?)" if close else ""
    return f"there is no setting '{wrong}'{hint}; `python train.py --cfg job` lists all of them"


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
