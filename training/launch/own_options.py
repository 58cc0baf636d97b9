"""Options of a user's own, in a folder of `--config-dir`: each must say what it builds."""

from collections.abc import Mapping
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from reverie.mistake import Mistake
from reverie.training.launch.options import PACKAGES, options
from reverie.training.launch.strangers import KINDS

_BUILDING = {*KINDS, "dataset", "condition"}
"""Groups whose options build something, all but `none`."""


def require_built(config: DictConfig, choices: Mapping[str, Any]) -> None:
    """Refuse an option of the user's that builds nothing, or what cannot stand in its place.

    Else a run would go on without it. What is no class builds something that only its call shows.

    Args:
        config: as composed.
        choices: options by group.

    Raises:
        Mistake: names the file and what it lacks.
    """
    for group in _BUILDING & set(choices):
        choice = str(choices[group])
        known = [name for name in options(group) if name != "none"]
        shipped = choice in known or choice in ("none", "None")
        if shipped or {",", "("} & set(choice):  # before a sweep, it is a list of options
            continue
        file = f"{group}/{choice}.yaml"
        node = OmegaConf.select(config, PACKAGES.get(group, group))
        target = node.get("_target_") if isinstance(node, DictConfig) else None
        if target is None:
            like = "file" if group == "dataset" else known[0]
            raise Mistake(
                f"{file} names nothing to build; begin it with `defaults: [{like}, _self_]`, or "
                "the option that you start from, and change its numbers, or give a class of your "
                "own as `_target_: my_module.MyClass`"
            )
        kind = KINDS.get(group)
        try:
            built = get_object(target)
        except Exception:  # what is not there is told where it is built
            continue
        if isinstance(built, type) and kind is not None and not issubclass(built, kind):
            raise Mistake(
                f"{file}: its _target_ is {target}, which is not derived from "
                f"{kind.__module__}.{kind.__name__}; derive it, or choose another class"
            )
