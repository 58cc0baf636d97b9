"""What `conf/` offers."""

from pathlib import Path

CONF = Path(__file__).resolve().parents[2] / "conf"
"""Of the checkout, or of the installed package."""


def options(group: str) -> list[str]:
    """Names of the options of a group, as they are typed."""
    folder = CONF / group
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))
