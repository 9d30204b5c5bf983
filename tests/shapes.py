"""The checker of arrays: conftest.py has every function of the package that is annotated with arrays checked by it."""

import sys
from typing import get_args

import jaxtyping
import numpy as np
import torch
from beartype import beartype
from jaxtyping import AbstractArray, Bool

TYPES = vars(jaxtyping) | {"np": np, "Tensor": torch.Tensor, "Relation": Bool[np.ndarray, "D U"]}
"""What annotations name and modules import for the type checker alone, as it takes long to load."""


def check_arrays(function):
    """Check the arrays among arguments and results; mypy checks all other types, and knows protocols better."""
    names = vars(sys.modules[function.__module__]) | TYPES
    for name, hint in [*function.__annotations__.items()]:
        if (resolved := _with_array(hint, names)) is None:
            del function.__annotations__[name]
        else:
            function.__annotations__[name] = resolved
    return beartype(function)


def _with_array(hint, names):
    """Return the type that an annotation means, if there is an array in it."""
    if isinstance(hint, str):
        try:
            hint = eval(hint, names)
        except NameError:  # A class that is being defined; arrays are imported.
            return None
    return hint if _has_array(hint) else None


def _has_array(hint):
    return (isinstance(hint, type) and issubclass(hint, AbstractArray)) or any(map(_has_array, get_args(hint)))
