"""What `conf/` offers."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf

from reverie.training.fitting import FITTED

CONF = Path(__file__).resolve().parents[2] / "conf"
"""Of the checkout, or of the installed package."""
PACKAGES = {
    "regulariser": "agent.regulariser",
    "noise_law": "generator.noise_law",
    "condition": "generator.condition",
    "warm_start": "source.warm_start",
}
"""Groups whose settings do not lie under their own name."""


def options(group: str) -> list[str]:
    """Names of the options of a group, as they are typed."""
    folder = CONF / group
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


def load_option(group: str, name: str) -> dict[str, Any]:
    """The settings of one option alone, with those that it builds on.

    Without the `path` of what is fitted, which names a file and no argument of its class.
    """
    settings = _compose_option(group, name)
    return {key: settings[key] for key in settings if key != "path" or group not in FITTED}


def build_option(
    group: str, name: str, *, changes: Mapping[str, Any] | None = None, **given: Any
) -> Any:
    """What one option builds, with changed numbers and what it is given at run time.

    Args:
        changes: settings to replace; those below a mapping replace what has the same key there.
    """
    merged: Any = OmegaConf.merge(load_option(group, name), dict(changes or {}))
    made = instantiate(merged, _convert_="all")
    return made(**given) if merged.get("_partial_") else made


@cache
def _compose_option(group: str, name: str) -> dict[str, Any]:
    # An option may choose one of another group as well, which must be there to be chosen anew.
    others = [each.parent.name for each in CONF.glob("*/none.yaml")]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        chosen = [f"+{each}=none" for each in others if each != group]
        config: Any = compose(overrides=[*chosen, f"+{group}={name}"])
    node = OmegaConf.select(config, PACKAGES.get(group, group))
    return OmegaConf.to_container(node)  # type: ignore[return-value]
