"""What labels mean: label spaces, the taxonomy that relates several of them, and the hierarchy that it implies."""

from manyseg.labels.spaces import IGNORE, LabelClass, LabelSpace, normalise
from manyseg.labels.taxonomy import Relation, Taxonomy

__all__ = ["IGNORE", "LabelClass", "LabelSpace", "Relation", "Taxonomy", "normalise"]
