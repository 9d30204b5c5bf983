"""What a run gave, for people: the page of one run, several runs side by side, sample pictures, the environment."""

from manyseg.report.compare import Comparison, compare
from manyseg.report.environment import environment
from manyseg.report.page import write_report
from manyseg.report.samples import Shown, predict_samples, write_samples

__all__ = ["Comparison", "Shown", "compare", "environment", "predict_samples", "write_report", "write_samples"]
