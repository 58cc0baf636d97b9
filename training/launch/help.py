"""What `--help` shows besides examples: options and settings, shortened to a screen or two."""

import textwrap
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from reverie.training.launch.options import CONF, options, tuned

_WIDTH = 98


def show_groups(*, _root_: DictConfig) -> str:
    """A line for each group: what is chosen now, and what else there is, as far as it fits."""
    lines = []
    choices = dict(reversed(_root_.hydra.runtime.choices.items()))  # as train.yaml lists them
    for group, chosen in ({"algorithm": None} | choices).items():
        if "/" in group or "@" in group or group in ("tuned", "limits"):
            continue
        names = [name for name in options(group) if name != chosen]
        # Folders of many options, such as datasets, by their name.
        many = {name.partition("/")[0] for name in names if "/" in name}
        names = [name for name in names if "/" not in name] + [f"{name}/..." for name in many]
        others = textwrap.shorten(", ".join(sorted(names)), _WIDTH - 45, placeholder=" ...")
        lines.append(f"{group:<18} {chosen:<22} or {others}")
    return _plain("\n".join(lines))


def show_settings(*, _root_: DictConfig) -> str:
    """A line for each setting outside the groups: its value now and what it means."""
    name = _root_.hydra.job.config_name
    lines = []
    for line in (CONF / f"{name}.yaml").read_text().splitlines():
        key = line.partition(":")[0]
        if not line[:1].isalpha() or key in ("defaults", "hydra", *_root_.hydra.runtime.choices):
            continue
        value = "???" if OmegaConf.is_missing(_root_, key) else _flow(_root_[key])
        if len(value) > 70:
            value = f"{{{', '.join(_root_[key])}}}"  # --cfg job shows the values
        text = f"{key + '=' + value:<26} {line.partition(' # ')[2]}".rstrip()
        lines.append(textwrap.fill(text, _WIDTH, subsequent_indent=" " * 27))
    return _plain("\n".join(lines))


def show_options() -> str:
    """Every option of every group."""
    groups = sorted(path.name for path in CONF.iterdir() if path.is_dir())
    return _plain(
        "\n".join(
            textwrap.fill(
                f"{group}: {', '.join(options(group))}",
                _WIDTH,
                subsequent_indent="  ",
                break_on_hyphens=False,
            )
            for group in groups
            if group not in ("hydra", "tuned", "limits")
        )
    )


def show_tuned(*, _root_: DictConfig) -> str:
    """The numbers that are tuned for datasets, of the chosen algorithm."""
    algorithm = _root_.hydra.runtime.choices.algorithm
    rows = [f"{name}: {_flow(numbers)}" for name, numbers in tuned(algorithm).items()]
    return _plain("\n".join(rows) or f"none for algorithm={algorithm}")


def register() -> None:
    """Let the templates of conf/hydra/help ask for these texts."""
    for function in (show_groups, show_settings, show_options, show_tuned):
        OmegaConf.register_new_resolver(f"reverie.{function.__name__}", function, replace=True)


def _flow(value: Any) -> str:
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**4)
    return text.removesuffix("\n").removesuffix("\n...")


def _plain(text: str) -> str:
    return text.replace("$", "$$")  # which a template reads as one
