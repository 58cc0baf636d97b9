"""Progress of a run: a bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class RateColumn(ProgressColumn):
    """Finished units per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("-/s" if speed is None else f"{speed:,.0f}/s")


class Stage:
    """One long piece of work with a known or unknown number of units."""

    def __init__(self, name: str, total: int | None, first: int, console: Console) -> None:
        self.name, self.total, self.first = name, total, first
        self.console = console
        self.started = self.told = time.monotonic()
        self.bar: Progress | None = None
        self.task = TaskID(0)

    def advance_to(self, done: int) -> None:
        """Show that so many units are finished."""
        if self.bar is not None:
            self.bar.update(self.task, completed=done)

    def report(self, done: int, text: str, pause: float = 0.0) -> None:
        """Tell something: beside the bar, or as a line of its own with rate and time left.

        Args:
            done: finished units.
            text: what to tell.
            pause: seconds that must have passed since the last line; no limit for the bar.
        """
        if self.bar is not None:
            self.bar.update(self.task, completed=done, note=text)
            return
        if time.monotonic() - self.told < pause:
            return
        self.told = time.monotonic()
        elapsed = time.monotonic() - self.started
        rate = (done - self.first) / max(elapsed, 1e-9)
        left = ""
        if self.total is not None and rate > 0:
            left = f", {_clock((self.total - done) / rate)} left"
        of = "" if self.total is None else f"/{self.total}"
        pace = f"{rate:,.1f}/s" if rate >= 1 else f"{1 / max(rate, 1e-9):,.1f} s each"
        line = f"{self.name} {done}{of}  {text}  ({pace}{left})"
        self.console.print(line, highlight=False, soft_wrap=True)


@contextmanager
def stage(name: str, total: int | None, console: Console, first: int = 0) -> Iterator[Stage]:
    """Show a stage while the block runs.

    Args:
        total: number of units, None when unknown beforehand.
        first: units that were finished earlier, when a run is resumed.
    """
    shown = Stage(name, total, first, console)
    if not console.is_terminal:
        yield shown
        return
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, refresh_per_second=4) as bar:
        shown.bar = bar
        shown.task = bar.add_task(name, total=total, completed=first, note="")
        yield shown


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
