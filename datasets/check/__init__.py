"""Checks of a dataset: its contents, and errors that would invalidate training."""

from reverie.datasets.check.report import Report, problems, report
from reverie.datasets.check.text import show

__all__ = ["Report", "problems", "report", "show"]
