"""What labels mean: label spaces, the taxonomy that relates several of them, and the hierarchy that it implies."""

from manyseg.labels.joint import JointClasses
from manyseg.labels.names import normalise
from manyseg.labels.spaces import IGNORE, ClassKey, LabelClass, LabelSpace
from manyseg.labels.taxonomy import Relation, Taxonomy

__all__ = ["IGNORE", "ClassKey", "JointClasses", "LabelClass", "LabelSpace", "Relation", "Taxonomy", "normalise"]
