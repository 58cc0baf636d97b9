"""Look at a dataset before trusting it: what is in it, and what would poison training."""

from reverie.datasets.check.report import Report, problems, report
from reverie.datasets.check.text import show

__all__ = ["Report", "problems", "report", "show"]
