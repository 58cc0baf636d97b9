"""What may be built from the files of a run, which may be untrusted.

Of a run's files only classes of our own packages are built, each in the place of its kind, and no
module is imported that nobody named on the command line or in the call.
"""

import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from reverie.agents.base import Agent
from reverie.agents.regularisers import Regulariser
from reverie.datasets.dataset import Dataset
from reverie.mistake import Mistake
from reverie.text import one_line
from reverie.training.logging import Tracker
from reverie.training.online import Online
from reverie.training.pretraining import Cloning
from reverie.training.stored import damaged
from reverie.world_models.base import Fitted, WorldModel
from reverie.world_models.diffusion.guidance import Guidance
from reverie.world_models.diffusion.noise_distributions import NoiseDistribution
from reverie.world_models.diffusion.records import Records
from reverie.world_models.diffusion.samplers import Sampler
from reverie.world_models.diffusion.warm_start import WarmStart
from reverie.world_models.filters import TransitionFilter
from reverie.world_models.forcing import Forcing
from reverie.world_models.model_updates import ModelUpdates
from reverie.world_models.morec.game import DynamicsGame
from reverie.world_models.mpc import ModelPredictivePlanner
from reverie.world_models.simulator import Simulator
from reverie.world_models.sindy.refinement import Refinement
from reverie.world_models.sources import RolloutSource
from reverie.world_models.termination import Termination

KINDS: dict[str, type] = {
    "agent": Agent,
    "regulariser": Regulariser,
    "world_model": WorldModel,
    "terminal_head": Termination,
    "forcing": Forcing,
    "refinement": Refinement,
    "dynamics_reward": Fitted,
    "game": DynamicsGame,
    "generator": Fitted,
    "records": Records,
    "noise_distribution": NoiseDistribution,
    "behaviour": Fitted,
    "inverse_model": Fitted,
    "filter": TransitionFilter,
    "filters": TransitionFilter,
    "source": RolloutSource,
    "warm_start": WarmStart,
    "simulator": Simulator,
    "sampler": Sampler,
    "guidance": Guidance,
    "online": Online,
    "model_updates": ModelUpdates,
    "pretraining": Cloning,
    "planner": ModelPredictivePlanner,
    "logger": Tracker,
}
"""Of what a setting builds, by its key: a class derived from this one."""
PART = nn.Module
"""What settings of other keys build, such as a `network` or a `condition`."""
READER = "dataset"
"""The setting that builds by a function of `reverie.datasets.readers` which returns a `Dataset`."""

_PACKAGES = ("reverie.agents.", "reverie.world_models.", "reverie.datasets.readers.")
_MODULES = ("reverie.training.online", "reverie.training.pretraining", "reverie.training.logging")
"""Where the classes of Reverie lie that settings build; a checkout has folders of users beside."""
_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+", re.ASCII)
_WORDS = ("_target_", "_partial_", "_convert_")
"""Of Hydra, that our settings hold."""


def require_known(settings: Mapping[str, Any], path: Path, allow: Collection[str] = ()) -> None:
    """Refuse settings of a run that would build, import or look up what they should not.

    Args:
        settings: plain values, as they were read.
        path: the file that holds them.
        allow: classes and environments outside of Reverie, as the user named them.

    Raises:
        Mistake: names the setting and what to do.
    """
    for key, value in _nodes(settings):
        name = key.rpartition(".")[2]
        if isinstance(value, str) and "${" in value:
            raise damaged(path, f"its {key} is the interpolation {value}", "restore it")
        if name == "env_id" and isinstance(value, str):
            require_environment_allowed(value, path, allow)
        if isinstance(value, Mapping) and "_target_" in value:
            odd = [word for word in value if word.startswith("_") and word not in _WORDS]
            if odd:
                raise damaged(path, f"its {key} holds {odd[0]}", "restore it")
            _require_kind(key, value["_target_"], path, allow)


def require_environment_allowed(env_id: str | None, path: Path, allow: Collection[str]) -> None:
    """Refuse an environment whose module would be imported, unless the user named it.

    Raises:
        Mistake: says what to type.
    """
    if env_id is None or env_id in allow:
        return
    # The others make an environment of another package by their options.
    if ":" in env_id or env_id.startswith("GymV"):
        shown = one_line(env_id, 200)
        raise Mistake(
            f"{path} names the environment {shown}, whose module is not imported for a file; if "
            f"you know it and trust it, add {_typed(shown)}"
        )


def named(allow: str | Collection[str] | None) -> tuple[str, ...]:
    """What a user allows, given as one name or several."""
    several: Any = () if allow is None else allow
    if isinstance(allow, str) or not isinstance(several, Collection):
        several = (allow,)
    names: tuple[str, ...] = tuple(several)
    for each in names:
        if not isinstance(each, str):
            raise Mistake(
                f"allow={each!r} is no name; give classes and environments by their names"
            )
    return names


def _nodes(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting with its dotted key; entries of a list have that of the list."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            inner = f"{key}.{name}" if key else str(name)
            yield inner, value
            yield from _nodes(value, inner)
    elif isinstance(node, list):
        for value in node:
            yield key, value
            yield from _nodes(value, key)


def _require_kind(key: str, target: Any, path: Path, allow: Collection[str]) -> None:
    shown, place = one_line(str(target), 200), f"{key}._target_"
    if not isinstance(target, str) or not _NAME.fullmatch(target):
        raise damaged(path, f"its {place} is {shown}, which names no class", "restore it")
    module, _, name = target.rpartition(".")
    ours = module.startswith(_PACKAGES) or module in _MODULES
    if not ours and target not in allow:
        raise Mistake(
            f"{path}: {place} names {shown}, which is none of Reverie's and is not imported for a "
            f"file; if it is a class that you know and trust, add {_typed(shown)}"
        )
    try:
        built = getattr(import_module(module), name, None)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):  # a package that the module needs
            raise
        raise Mistake(
            f"{path}: {place} names {shown}, and there is no module {error.name}; put the folder "
            "of a module of your own on PYTHONPATH, or restore the file"
        ) from error
    kind = KINDS.get(key.rpartition(".")[2], PART)
    # Defined there: what a module imports is not its own.
    own = getattr(built, "__module__", None) == module and getattr(built, "__name__", "") == name
    if key == READER:
        right = inspect.isfunction(built) and _returns(built) is Dataset
        expected = "a reader of datasets, a function that returns a Dataset"
    else:
        right = isinstance(built, type) and issubclass(built, kind)
        expected = f"a class derived from {kind.__module__}.{kind.__name__}"
    if not (own and right):
        raise damaged(path, f"its {place} is {shown}, which is not {expected}", "restore it")


def _returns(function: Any) -> Any:
    return inspect.signature(function, eval_str=True).return_annotation


def _typed(name: str) -> str:
    return f"allow={name} (from Python: reverie.load(..., allow={name!r}))"
