"""Videos of runs on a page: the policy, and the world model's prediction beside the truth."""

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from reverie.training.report.groups import Group
from reverie.training.report.page import Block, Links, Section, Text, Video

KINDS = {
    "video": "the policy in the true environment",
    "imagined": "true (left) beside imagined (right)",
}
"""What `evaluate.py` records, by the beginning of the file's name."""
LARGEST = 4_000_000
"""Bytes of a video that becomes part of the page."""
_ABOUT = (
    "Both halves of an imagined video begin in the same state: left the true environment, right "
    "what the world model expects, each under the same policy, which sees its own half. A half "
    "that has ended is dark. It is in slow motion where a task has more than 30 steps a second."
)


def videos(groups: Sequence[Group], output: Path) -> list[Section]:
    """Of every method on every task one video of each kind to look at, and links to the others."""
    blocks: list[Block] = []
    links = []
    for group in groups:
        shown = set()
        for run in group.runs:
            for path in run.videos:
                kind, _, replica = path.stem.partition("-seed")
                caption = f"{group.method} on {group.task}, {KINDS.get(kind, kind)}, "
                caption += f"seed {run.summary['seed']}, replica {replica or 0}"
                beside = Path(os.path.relpath(path, output.resolve())).as_posix()
                address = quote(os.fsencode(beside))
                if kind not in shown and 0 < path.stat().st_size <= LARGEST:
                    blocks.append(Video(path.read_bytes(), caption, address))
                    shown.add(kind)
                else:
                    links.append((caption, address))
    if links:
        blocks.append(Links(links))
    return [Section("Videos", [Text(_ABOUT), *blocks])] if blocks else []
