"""Recorded and imagined trajectories, as drawn by the runs."""

from collections.abc import Sequence

from reverie.training.report.groups import Group
from reverie.training.report.page import Picture, Section, Text

LARGEST = 4_000_000
"""Bytes of a picture that becomes part of the page."""
_ABOUT = (
    "The thick grey line is what was recorded. Blue is what the world model predicts for the "
    "recorded actions: where it leaves the grey line, the model is wrong. Orange is what it "
    "predicts under the trained policy, from the same starts: what the agent expects. Lines are "
    "medians, bands the middle 80 % of the predictions; a cross is where an imagined episode ends. "
    "One run of each method, its first seed."
)


def dreams(groups: Sequence[Group]) -> list[Section]:
    """The picture of the first run of every method on every task that has one."""
    blocks: list[Picture] = []
    for group in groups:
        for run in group.runs:
            path = run.directory / "dreams.png"
            if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST:
                continue
            seed = run.summary["seed"]
            caption = f"{group.method} on {group.task}, seed {seed}"
            blocks.append(Picture(path.read_bytes(), caption, "png"))
            break
    return [Section("Recorded and imagined", [Text(_ABOUT), *blocks])] if blocks else []
