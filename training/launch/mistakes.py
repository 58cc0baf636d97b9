"""Start and failure of the commands: one line for a user's mistake, and a non-zero exit."""

import errno
import fnmatch
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from omegaconf.errors import (
    GrammarParseError,
    InterpolationKeyError,
    InterpolationResolutionError,
    InterpolationToMissingValueError,
    MissingMandatoryValue,
    ValidationError,
)

from reverie.datasets.options import option_of
from reverie.envs import extras
from reverie.mistake import Mistake
from reverie.output import outlive_readers
from reverie.paths import quote, quote_paths
from reverie.settings import require_declared
from reverie.text import near, printable
from reverie.training.launch import help, renamed
from reverie.training.launch.hyperparameters import NOT_GLOBAL, refusal
from reverie.training.launch.misfits import is_of_the_call, is_of_the_name, misfit
from reverie.training.launch.options import CONF, PACKAGES, as_typed, one_spelling, options
from reverie.training.launch.own_files import own_names, require_sound_files
from reverie.training.run_directory import flat

TRACEBACK = "REVERIE_TRACEBACK"
"""Environment variable; 1 shows the traceback of mistakes as well."""
DEFECT = "error: this is a defect of the program, or of a method that was added to it"
_REFUSED = (
    HydraException,
    GrammarParseError,
    InterpolationResolutionError,
    ValidationError,
    yaml.YAMLError,
)
"""How Hydra, OmegaConf and YAML say that what somebody typed cannot be read."""
_COMMANDS = ("--run", "-r", "--multirun", "-m", "--cfg", "-c", "--info", "-i", "-sc")
"""Options of Hydra of which a command has one at most."""
_SHARED = ("world_model", "planner", "verdict")
"""Groups of training that commands about a finished run may have too."""
_TOO_LARGE = re.compile("DefaultCPUAll|Storage size calculation overflowed|multiplication overflow")
_MACHINE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EPIPE),
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG),
)


def run(main: Callable[[], Any], sweeps: bool | None = None) -> None:
    """Run a command; what Hydra refuses ends it with one line as well.

    Args:
        sweeps: whether `a,b` are two values of a setting; None where `-m` says it.
    """
    # Hydra then raises instead of printing its own abbreviated traceback.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    help.register()
    with one_line_errors():
        if sweeps is not True:  # such a command has options of its own
            refuse_dashes(sys.argv[1:])
            refuse_two_commands(sys.argv[1:])
        renamed.refuse_arguments(sys.argv[1:])
        typed = [expand_glob(argument) for argument in sys.argv[1:]]
        require_sound_files(sys.argv[1:])
        sys.argv[1:] = one_spelling(quote_paths(typed, sweeps))
        main()


def refuse_dashes(arguments: Sequence[str]) -> None:
    """Refuse a setting that is typed as an option of a command would be.

    Raises:
        Mistake: the first one, and how it is typed.
    """
    for place, argument in enumerate(arguments):
        found = re.fullmatch(r"--?([A-Za-z][\w.-]+)(?:=(.*))?", argument, re.DOTALL)
        if found is None or argument.startswith("--config"):
            continue
        name, value = found[1].replace("-", "_"), found[2]
        following = arguments[place + 1 : place + 2]
        if not is_setting(name) or (argument == "--run" and (not following or "=" in following[0])):
            continue  # --run is an option of Hydra
        if value is None and following and not following[0].startswith("-"):
            value = following[0]
        typed = f"{name}={'...' if value is None else value}"
        own = f"; train.py calls it run_dir={value}" if name == "run" and value else ""
        raise Mistake(
            f"{argument} is no option; settings are typed without dashes, as {typed}{own}"
        )


def refuse_two_commands(arguments: Sequence[str]) -> None:
    """Refuse options of Hydra that each ask for something else than the others.

    Raises:
        Mistake: the first two.
    """
    asked = [each for each in arguments if each.partition("=")[0] in _COMMANDS]
    if len(asked) > 1:
        raise Mistake(
            f"{asked[0]} and {asked[1]} do not go together; leave one of them out (--cfg job shows "
            "the settings of one run)"
        )
    words = {each.partition("=")[0] for each in arguments}
    if "--resolve" in words and not {"--cfg", "-c", "--help", "-h"} & words:
        raise Mistake("--resolve goes with --cfg alone; type --cfg job --resolve, or leave it out")


def is_setting(name: str) -> bool:
    """Whether `name=...` or `name.key=...` sets something of `train.py` or `evaluate.py`."""
    first = name.partition(".")[0]
    if (CONF / first).is_dir():
        return True
    files = (CONF / "train.yaml", CONF / "evaluate.yaml")
    return any(first in yaml.safe_load(path.read_text()) for path in files)


def expand_glob(argument: str) -> str:
    """Turn `group=glob(folder/pattern)` into the list of options it means.

    Hydra's own glob does not look into the folders of a group and then launches nothing.

    Raises:
        Mistake: nothing matches.
    """
    found = re.fullmatch(r"(\w+)=glob\((.*/.*)\)", argument)
    if not found:
        return argument
    group, pattern = found.groups()
    matching = fnmatch.filter(options(group), pattern)
    if not matching:
        raise Mistake(f"no option of {group} matches {pattern}; {_available(group, pattern)}")
    return f"{group}={','.join(matching)}"


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with one line and status 1 for an error that a user can mend.

    Defects show their traceback, and REVERIE_TRACEBACK=1 shows that of mistakes as well. Output
    that nobody reads any more ends nothing.
    """
    outlive_readers()
    try:
        yield
    except KeyboardInterrupt:
        fail("interrupted; run the same command again to go on from the last checkpoint", 130)
    except Exception as error:
        message = explain(error)
        if message is None:
            mark_defect(error)
        if message is None or os.environ.get(TRACEBACK) == "1":
            traceback.print_exception(error)
        if message is None:
            sys.exit(1)
        fail(message)


def build(name: str, constructor: Callable[..., Any], **run_time: Any) -> Any:
    """Call what the configuration made of a node, and name the node where its values do not fit.

    Raises:
        Mistake: a key that the constructor lacks, one that it needs, or a value that is not what it
            declares.
    """
    require_declared(constructor, prefix=f"{name}.")
    try:
        return constructor(**run_time)
    except Mistake:
        raise
    except Exception as error:
        reason = misfit(constructor, run_time)
        if reason is None:
            raise
        raise Mistake(
            f"{name} cannot be built: {reason}; check the settings under {name} "
            f"(`{this_command()} --cfg job` shows them)"
        ) from error


def fail(message: str, status: int = 1) -> None:
    """End the process with one line."""
    print(f"error: {printable(message)}", file=sys.stderr)
    sys.exit(status)


def mark_defect(error: BaseException, kept: Path | None = None) -> None:
    """Let the traceback of an error that explains nothing itself end with what it is.

    Args:
        kept: the file that keeps the traceback.
    """
    marked = any(note.startswith(DEFECT) for note in getattr(error, "__notes__", ()))
    if explain(error) is None and not marked:
        error.add_note(DEFECT if kept is None else f"{DEFECT}; {kept} keeps this traceback")


def explain(error: BaseException, typed: Sequence[str] | None = None) -> str | None:
    """One line for an error a user can mend, None for a defect of the program.

    Args:
        typed: the settings behind it; None for those of this command.
    """
    if isinstance(error, InstantiationException):
        return _explain_instantiation(error)
    if isinstance(error, InterpolationKeyError) and getattr(error, "full_key", None):
        asked = re.search(r"'([^']*)'", str(error))
        return (
            f"{error.full_key} takes up {asked[1] if asked else 'another setting'}, which is not "
            f"there; correct it, or give {error.full_key}=..."
        )
    if isinstance(error, MissingMandatoryValue | InterpolationKeyError):
        key = getattr(error, "full_key", None) or str(error).splitlines()[0]
        return f"{key} has no value; give it on the command line, as {key}=..."
    if isinstance(error, OverrideParseException):
        return _explain_override(error)
    if isinstance(error, InterpolationToMissingValueError):  # as of a name that is the id
        key = str(error).splitlines()[0].rpartition(" ")[2]
        return f"{key} has no value; give it on the command line, as {key}=..."
    if isinstance(error, InterpolationResolutionError) and error.full_key:
        return f"{error.full_key}: {str(error).splitlines()[0]}"
    if isinstance(error, HydraException):
        return _explain_composition(error, sys.argv if typed is None else typed)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or _TOO_LARGE.search(str(error)):
        return (
            f"out of memory ({_text(error)}); lower seeds=, batch_size=, source.capacity= or the "
            f"sizes of the networks, or use a larger machine ({TRACEBACK}=1 shows where)"
        )
    if isinstance(error, (Mistake, *_REFUSED)):
        return _text(error)
    if isinstance(error, RuntimeError) and 'Could not detect "srun"' in str(error):
        return (
            "hydra/launcher=submitit_slurm finds no srun here; type the command on a machine of a "
            "Slurm cluster, or choose hydra/launcher=submitit_local or hydra/launcher=joblib"
        )
    named = re.match(r"Error loading '([^']*)'", str(error))  # by Hydra, as a _target_
    if named and is_of_the_name(error, named[1]):
        return f"_target_={named[1]} is not there: {_text(error.__cause__ or error)}"
    if isinstance(error, OSError) and error.errno in _MACHINE:
        return f"{_text(error)} ({TRACEBACK}=1 shows where)"
    return None


def _text(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _explain_instantiation(error: InstantiationException) -> str | None:
    """What Hydra could not build: its own refusals, and those of what it called."""
    cause = error.__cause__
    if cause is None:
        return _text(error)
    if isinstance(cause, TypeError) and is_of_the_call(cause):
        return f"{_text(cause)}; correct the keys of the configuration"
    return explain(cause)


def _explain_override(error: OverrideParseException) -> str:
    """What cannot be read, and how it is typed if it is meant as text."""
    override = as_typed(error.override)
    key, is_setting, value = override.partition("=")
    reason = str(error).partition("See https://hydra.cc")[0]
    if reason.startswith("LexerNoViableAlt"):  # which points at a character below
        reason = "its special characters need quotes"
    text = f"{override} cannot be read ({' '.join(reason.split())})"
    if value.startswith(("{", "[")) and (quoted := _quote_words(value)) is not None:
        typed = shlex.quote(f"{key}={quoted}")
        return f"{text}; names with other letters than a to z need quotes, so type {typed}"
    if key == "dataset.columns":  # names of columns have units, and the whole is never text
        example = shlex.quote('dataset.columns={actions: "valve [%]"}')
        return f"{text}; names with spaces or signs need quotes of their own, as in {example}"
    if not is_setting and Path(override).is_dir():
        given = shlex.quote(f"run={override}")
        return f"{override} is a folder; a run is given as {given}, to train.py as run_dir=..."
    if not is_setting:
        return f"{text}; settings are typed as key=value"
    meant = f"{key}={quote(value)}"
    typed = shlex.quote(meant) if re.search(r'[$`"\\!]', meant) else f'"{meant}"'
    return f"{text}; if it is meant as text, type {typed}"


def _quote_words(value: str) -> str | None:
    """A list or mapping with its words that Hydra cannot read in quotes; None if that helps not."""
    quoted = re.sub(
        r"""'[^']*'|"[^"]*"|[^\s,:{}\[\]'"]*[^\x00-\x7f][^\s,:{}\[\]'"]*""",
        lambda word: word[0] if word[0][0] in "'\"" else f'"{word[0]}"',
        value,
    )
    try:
        OverridesParser.create().parse_overrides([f"key={quoted}"])
    except HydraException:
        return None
    return quoted


def _explain_composition(error: BaseException, typed: Sequence[str]) -> str:
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
                known += "; docs/reference/sweeps.md says how to install launchers"
            return f"{group}={wrong} is not there; {known}"
        return f"{group}={wrong} is not there; {_available(group, wrong)}"
    parent = re.search(r"In '([^']+)': Could not load '([^']+)'", text)
    if parent:
        group, _, wrong = parent.group(2).rpartition("/")
        if group:
            file = f"{parent.group(1)}.yaml"
            return (
                f"{file}: its defaults name {wrong}, which is not there; {_available(group, wrong)}"
            )
    key = re.search(r"Could not override '([^']+)'", text)
    if key and "@algorithm." in key.group(1):
        preset = next((each for each in typed if each.startswith("algorithm=")), "algorithm=...")
        return NOT_GLOBAL.format(preset)
    if key:
        return _explain_key(key.group(1), typed)
    merged = re.search(r"Error merging override (.+)", text)
    if merged:  # a list in the place of names below it, or the other way round
        return (
            f"{merged.group(1)} is of another kind than that setting is; "
            f"`{this_command()} --cfg job` shows what it holds"
        )
    return text


def _available(group: str, wrong: str) -> str:
    if group == "dataset":
        folder = Path(wrong).is_dir()
        option = "table" if folder else option_of(wrong)
        if option is not None:
            path = shlex.quote(f"dataset.path={wrong}")
            return (
                f"a {'folder of tables' if folder else 'file'} is given as dataset={option} {path}"
            )
    offered = sorted({*options(group), *own_names(group, sys.argv)})
    close = near(wrong, offered)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"options: {', '.join(offered[:12])}{', ...' if len(offered) > 12 else ''}"


def _explain_key(wrong: str, arguments: Sequence[str]) -> str:
    if wrong != renamed.current(wrong):
        return f"{wrong} is called {renamed.current(wrong)} now"
    group = wrong.partition(".")[0]
    run = next((each for each in arguments if each.startswith("run=")), None)
    if run is not None and group not in _SHARED and is_setting(group):
        text = f"{wrong} belongs to the run, which is read as it was trained; leave it out (--help "
        text += "lists what this command takes)"
        if group == "dataset":
            begun = shlex.quote(run.replace("run=", "init=", 1))
            text += (
                f"; for another log, python train.py {begun} updates=1 run_dir=NEW with the run's "
                "own settings and that dataset makes a run of it, then type run=NEW here"
            )
        return text
    groups = [path.name for path in CONF.iterdir() if path.is_dir()]
    keys = set(groups)
    for path in CONF.rglob("*.yaml"):
        folder = PACKAGES.get(path.relative_to(CONF).parts[0], path.relative_to(CONF).parts[0])
        # Presets and rows, of settings that stand elsewhere.
        if folder in ("tuned", "limits", "algorithm", "hydra"):
            continue
        names = flat(yaml.safe_load(path.read_text()) or {})
        keys |= {name if path.parent == CONF else f"{folder}.{name}" for name in names}
    places = {PACKAGES.get(group, group) for group in groups}
    if wrong in keys and any(wrong.startswith(f"{place}.") for place in places):
        # Other options have it.
        typed = _settled() | dict(each.split("=", 1) for each in arguments if "=" in each)
        # A group of one option is part of another and leaves no choice.
        several = [group for group in groups if len(options(group)) > 1]
        return refusal(wrong, wrong, {group: typed.get(group) for group in several})
    typed_at_all = {key for key in keys - {wrong} if not key.rpartition(".")[2].startswith("_")}
    close = near(wrong, sorted(typed_at_all), 2, cutoff=0.7)
    hint = f" (did you mean {' or '.join(close)}?)" if close else ""
    return f"there is no setting '{wrong}'{hint}; `{this_command()} --cfg job` lists all of them"


def this_command() -> str:
    """How the user started this process; training's command where it was started from Python."""
    words = [*sys.orig_argv[1:], "", ""]
    if words[0] == "-m" and words[1].partition(".")[0] in ("training", "reverie"):
        return f"python -m {words[1]}"
    if Path(words[0]).name == "reverie":
        return f"reverie {words[1]}"
    if words[0] in ("train.py", "evaluate.py"):
        return f"python {words[0]}"
    return "python -m reverie.train"


def _settled() -> dict[str, str]:
    """What is chosen of the groups that no preset chooses from, where nobody types anything."""
    defaults = yaml.safe_load((CONF / "train.yaml").read_text())["defaults"]
    presets = "".join(path.read_text() for path in (CONF / "algorithm").glob("*.yaml"))
    return {
        group: option
        for each in defaults
        if isinstance(each, dict)
        for group, option in each.items()
        if f"override /{group}:" not in presets
    }
