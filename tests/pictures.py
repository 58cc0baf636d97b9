"""Blank pictures, for tests that look at none.

Matplotlib takes a second for the pictures of a small run, half of its time. What is drawn into a
figure is drawn in every test; what the renderer makes of it is looked at, and left as it is, in
tests marked `pictures` and in slow ones.
"""

from typing import Any

from matplotlib.figure import Figure

_save = Figure.savefig
BLANK = Figure(figsize=(0.1, 0.1))


def _save_blank(self: Figure, file: Any, **how: Any) -> None:
    _save(BLANK, file, format=how.get("format"))


def leave_pictures_blank() -> None:
    """In this process, until they are rendered again."""
    Figure.savefig = _save_blank


def render(patch: Any) -> None:
    """Render them after all, as long as pytest's `monkeypatch` lasts."""
    patch.setattr(Figure, "savefig", _save)


def rendered(node: Any) -> bool:
    """Whether a test, a node of pytest's, asks for what matplotlib makes of its figures."""
    return any(map(node.get_closest_marker, ("pictures", "slow")))
