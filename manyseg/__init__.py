"""One segmentation model from many datasets whose labels disagree.

    import manyseg

    manyseg.train("recipe.toml", out="runs/a")
    model = manyseg.load("runs/a")
    model.predict("photo.jpg", labels="unified").overlay().save("overlay.png")

Everything is loaded when it is first used, so that `import manyseg` itself loads no deep-learning framework.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manyseg.errors import UserError as UserError
    from manyseg.labels import LabelSpace as LabelSpace
    from manyseg.labels import Taxonomy as Taxonomy
    from manyseg.methods.base import Method as Method
    from manyseg.methods.base import PixelMethod as PixelMethod
    from manyseg.prediction.model import Model as Model
    from manyseg.prediction.model import Prediction as Prediction
    from manyseg.runs.propose import propose_labels as propose_labels
    from manyseg.runs.run import evaluate_run as evaluate
    from manyseg.runs.run import load as load
    from manyseg.runs.run import train_recipe as train

__version__ = "0.1.0"

_PLACES = {
    "LabelSpace": ("manyseg.labels", "LabelSpace"),
    "Method": ("manyseg.methods.base", "Method"),
    "Model": ("manyseg.prediction.model", "Model"),
    "PixelMethod": ("manyseg.methods.base", "PixelMethod"),
    "Prediction": ("manyseg.prediction.model", "Prediction"),
    "Taxonomy": ("manyseg.labels", "Taxonomy"),
    "UserError": ("manyseg.errors", "UserError"),
    "evaluate": ("manyseg.runs.run", "evaluate_run"),
    "load": ("manyseg.runs.run", "load"),
    "propose_labels": ("manyseg.runs.propose", "propose_labels"),
    "train": ("manyseg.runs.run", "train_recipe"),
}
"""The module in which each public name is defined, and its name there."""

__all__ = [  # noqa: RUF022  # sorted by what a reader looks for first
    "__version__",
    "load",
    "train",
    "evaluate",
    "propose_labels",
    "LabelSpace",
    "Method",
    "Model",
    "PixelMethod",
    "Prediction",
    "Taxonomy",
    "UserError",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562)."""
    if name not in _PLACES:
        raise AttributeError(f"module 'manyseg' has no attribute '{name}'")
    module, there = _PLACES[name]
    globals()[name] = getattr(import_module(module), there)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted(__all__)
