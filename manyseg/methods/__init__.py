"""The methods by the names that recipes use. Adding one is a file, its test, and a line here."""

from manyseg.methods.autouniseg import AutoUniSeg
from manyseg.methods.base import Method, PixelMethod, StagePlan
from manyseg.methods.baselines import Manual, MultiHead, Union
from manyseg.methods.htss import HTSS
from manyseg.methods.lmseg import LMSeg
from manyseg.methods.uniseg import UniSeg

__all__ = ["METHODS", "Method", "PixelMethod", "StagePlan"]

METHODS: dict[str, type[Method]] = {
    "multihead": MultiHead,
    "union": Union,
    "manual": Manual,
    "uniseg": UniSeg,
    "autouniseg": AutoUniSeg,
    "htss": HTSS,
    "lmseg": LMSeg,
}
