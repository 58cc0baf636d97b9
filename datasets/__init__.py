"""Recorded experience: readers, checks, and the replay layer that feeds every agent."""

from reverie.datasets.options import load

__all__ = ["load"]
