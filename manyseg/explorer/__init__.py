"""A label space to look at: every merge with its evidence, the conflicts, the difference between two taxonomies."""

from manyseg.explorer.conflicts import Conflict, conflicts
from manyseg.explorer.crops import example_crops
from manyseg.explorer.difference import Difference, difference
from manyseg.explorer.page import write_explorer

__all__ = ["Conflict", "Difference", "conflicts", "difference", "example_crops", "write_explorer"]
