"""Where a run lives, and what may not be mixed in one directory."""

import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from reverie.datasets.names import short_name
from reverie.mistake import Mistake, writing

CONFIG, SUMMARY, METRICS = "config.yaml", "summary.json", "metrics.csv"
FAILED = "failed.json"

# Settings that change how a run is carried out or shown, but not what it computes. They are not
# compared when a run is resumed, and do not become part of its directory's name.
CARRIED_OUT = (
    "device",
    "compile",
    "threads",
    "root",
    "run_dir",
    "overwrite",
    "retry_failed",
    "cache",
    "checkpoint_every",
    "logger",
)
# Settings that have a level of the directory to themselves, or are part of the dataset's name.
NAMED = ("name", "algorithm", "seed", "dataset", "dataset.name", "dataset.id", "dataset.path")
LONGEST_NAME = 100


def run_directory(config: Mapping[str, Any], overrides: Sequence[str]) -> Path:
    """root/name/dataset[/changes]/seed: the configuration decides, never the clock.

    Args:
        config: the composed settings.
        overrides: what was typed, as `key=value`; those that change results become `changes`.
    """
    if config["run_dir"] is not None:
        return Path(config["run_dir"])
    changes = []
    for override in sorted(overrides):
        key = override.split("=", 1)[0].lstrip("+~")
        if key not in NAMED and key.split(".")[0] not in CARRIED_OUT:
            # Only what a command line takes without quotes, so that run=... can be typed.
            changes.append(re.sub(r"[^\w.]+", "-", override.lstrip("+~")).strip("-"))
    variant = "+".join(changes)
    if len(variant) > LONGEST_NAME:
        digest = hashlib.sha256(variant.encode()).hexdigest()[:12]
        variant = f"{variant[: LONGEST_NAME - 13]}-{digest}"
    dataset = short_name(**config["dataset"])
    return Path(config["root"], config["name"], dataset, variant, str(config["seed"]))


def require_same_settings(run_dir: Path, config: Mapping[str, Any]) -> None:
    """Refuse to go on in a directory that holds a run with other settings.

    Raises:
        Mistake: names the first setting that differs, or the damaged file.
    """
    path = run_dir / CONFIG
    if not path.is_file():
        return
    try:
        earlier = flat(yaml.safe_load(path.read_text()))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise Mistake(
            f"{path} is damaged ({reason}); restore it, or start over with overwrite=true"
        ) from error
    now = flat(config)
    for key in sorted(set(earlier) | set(now)):
        if key.split(".")[0] in CARRIED_OUT or earlier.get(key) == now.get(key):
            continue
        raise Mistake(
            f"{run_dir} holds a run with {key}={earlier.get(key)}, this one has "
            f"{key}={now.get(key)}; give it another run_dir, or start over with overwrite=true"
        )


def clear(run_dir: Path) -> None:
    """Empty a run directory, keeping the lock that this process holds.

    Raises:
        Mistake: the directory holds files but no run, so they are somebody's own.
    """
    found = [path for path in run_dir.iterdir() if path.name != ".lock"]
    if found and not any((run_dir / name).is_file() for name in (CONFIG, FAILED, "world_model.pt")):
        raise Mistake(
            f"{run_dir} holds files but no {CONFIG}, so it is no run directory and "
            "overwrite=true leaves it alone; choose another run_dir"
        )
    with writing(run_dir, "make it writable, or choose another run_dir"):
        for path in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as {dotted key: value}."""
    if not isinstance(settings, Mapping):
        return {prefix: settings}
    result: dict[str, Any] = {}
    for key, value in settings.items():
        result |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return result
