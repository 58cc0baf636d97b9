"""Every command that a page, a help text or a comment of conf/ prints can be typed.

Nothing is trained: settings compose and make sense, other arguments are parsed.
"""

import argparse
import fnmatch
import re
import runpy
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from beartype.roar import BeartypeCallHintParamViolation
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict

from reverie.mistake import Mistake
from reverie.paths import quote_paths
from reverie.settings import require_declared
from reverie.training.launch.check import only_data
from reverie.training.launch.hyperparameters import compose_run
from reverie.training.launch.mistakes import (
    expand_glob,
    explain,
    refuse_dashes,
    refuse_two_commands,
)
from reverie.training.launch.options import CONF, options
from reverie.training.launch.requirements import require_sense
from reverie.training.launch.search_space import question
from tests.cases import some
from tests.printed import printed

TO_BE_WRITTEN = Path("docs/extending.md")
"""The page whose reader adds the options that its commands choose."""
MODULES = {"train.py": "train", "evaluate.py": "evaluate", "reverie check": "datasets.check"}
MODULES |= {f"reverie {name}": name for name in ("train", "evaluate")}
ABSENT = ("hydra/launcher=ray", "+hydra.launcher.ray", "hydra.launcher.ray")
"""What needs a package that no test environment has, see docs/reference/sweeps.md."""
ALL = printed()
ROOMS = ("agents", "benchmarks", "datasets", "envs", "reverie", "training", "world_models")


def test_the_pages_print_commands_of_every_program():
    programs = {each.program for each in ALL}
    assert len(ALL) > 200 and programs >= {"train.py", "evaluate.py", "datasets.check"}
    assert programs >= {f"training.{name}" for name in ("collect", "distil", "export", "ope")}


def test_run_directories_are_called_as_runs_call_them():
    folders = {each for asked in ALL for each in asked.arguments if each.startswith("run=runs/")}
    assert len(folders) > 5
    assert not {each for each in folders if "=" in each.removeprefix("run=")}


@pytest.mark.parametrize("asked", some(ALL, 7), ids=str)
def test_a_printed_command_can_be_typed(asked, monkeypatch):
    program, arguments = asked.program, list(asked.arguments)
    module = MODULES.get(program, program.replace("reverie ", "training.")).removeprefix("reverie.")
    if program.endswith(".py") and program not in MODULES:  # of ours, or the reader writes it
        assert Path(program).is_file() or f"`{program}`" in asked.place.read_text()
        return
    if asked.place == TO_BE_WRITTEN or re.search(r"[.= ](NAME|X)( |$)", str(asked)):
        return
    assert find_spec(f"reverie.{module}") is not None, f"there is no {module}"
    try:
        type_(module, arguments, monkeypatch)
    except BeartypeCallHintParamViolation:  # which takes no 2 for 2.0; `require_declared` did
        pass
    except (Mistake, HydraException) as error:
        pytest.fail(f"{asked}: {explain(error, arguments)}")


SOURCES = [path for room in ROOMS for path in sorted(Path(room).rglob("*.py"))]


def test_modules_that_messages_name_are_commands():
    command = re.compile(r"python -m[\s\"f]+([a-z_]++(?:\.[a-z_]++)++)(?!\.?[\w{<])")
    named = {(path, name) for path in SOURCES for name in command.findall(path.read_text())}
    assert len(named) > 30
    for path, name in named:
        own = Path(*name.removeprefix("reverie.").split("."))
        file = own / "__main__.py" if own.is_dir() else own.with_suffix(".py")
        assert file.is_file() and '__name__ == "__main__"' in file.read_text(), f"{path}: {name}"


def type_(module, arguments, monkeypatch):
    """Do what a command does with its arguments before it begins its work."""
    name = module.rpartition(".")[2]
    if name in ("train", "fit_generator"):
        begin_training(arguments)
    elif (CONF / f"{name}.yaml").is_file():
        begin(name, module, arguments)
    elif arguments:
        parsed = parse(module, arguments, monkeypatch)
        if name == "tune":
            question(parsed.settings)
        elif name == "check":
            compose_run(only_data(parsed.overrides))
        elif name == "second_ring":
            assert all(find_spec(f"reverie.{module}.{each}") for each in parsed.names)


def begin_training(arguments):
    """Compose the run of a command, of a sweep those that hold each of its values once."""
    refuse_dashes(arguments)
    refuse_two_commands(arguments)
    flags = {"-m", "--cfg", "job", "--help"}
    typed = [each for each in arguments if each not in flags and not each.startswith(ABSENT)]
    typed = quote_paths([expand_glob(each) for each in typed], "-m" in arguments)
    for overrides in swept(typed) if "-m" in arguments else [typed]:
        config = compose_run(overrides)
        if "--help" not in arguments:
            require_sense(config, OmegaConf.to_container(config, resolve=True))


def swept(typed):
    """Settings of some runs of a sweep."""
    columns = []
    for each in OverridesParser.create().parse_overrides(typed):
        key, values = each.key_or_group, []
        if isinstance(each.value(), Glob):
            values = fnmatch.filter(options(key), each.value().include[0])
        elif each.is_choice_sweep():
            values = list(each.sweep_string_iterator())
        columns.append([f"{key}={value}" for value in values] or [each.input_line])
    for run in range(max(map(len, columns))):
        yield [values[run % len(values)] for values in columns]


def begin(name, module, arguments):
    """Compose the settings of another command of Hydra, and look at its own numbers."""
    refuse_dashes(arguments)
    typed = quote_paths([each for each in arguments if each not in ("--help", "--cfg", "job")])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(name, overrides=typed, return_hydra_config=True)
    with open_dict(config):
        del config["hydra"]
    if typed:
        file = module if name == "evaluate" else f"{module}.__main__"
        own = import_module(f"reverie.{file}").SETTINGS
        require_declared(OmegaConf.to_container(config, resolve=True), own)


class Parsed(BaseException):
    """Ends a command when its arguments are parsed."""


def parse(module, arguments, monkeypatch):
    """What argparse makes of the arguments of a module, which does nothing else."""
    for method in ("parse_args", "parse_intermixed_args"):
        of_program = getattr(argparse.ArgumentParser, method)

        def parse_then_end(parser, arguments=None, of_program=of_program):
            raise Parsed(of_program(parser, arguments))

        monkeypatch.setattr(argparse.ArgumentParser, method, parse_then_end)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(Parsed) as parsed:
        runpy.run_module(f"reverie.{module}", run_name="__main__")
    return parsed.value.args[0]
