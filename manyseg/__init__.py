"""One segmentation model from many datasets whose labels disagree.

    import manyseg

    manyseg.train("recipe.toml", out="runs/a")
    model = manyseg.load("runs/a")
    model.predict("photo.jpg", labels="unified").overlay().save("overlay.png")

Everything is loaded when it is first used, so that `import manyseg` itself loads no deep-learning framework.
"""

from typing import TYPE_CHECKING

from manyseg.lazy import first_use

if TYPE_CHECKING:
    from manyseg.errors import UserError as UserError
    from manyseg.labels import LabelSpace as LabelSpace
    from manyseg.labels import Taxonomy as Taxonomy
    from manyseg.methods.base import Method as Method
    from manyseg.methods.pixel import PixelMethod as PixelMethod
    from manyseg.prediction.model import Model as Model
    from manyseg.prediction.prediction import Prediction as Prediction
    from manyseg.runs.propose import propose_labels as propose_labels
    from manyseg.runs.run import load as load
    from manyseg.runs.run import train_recipe as train
    from manyseg.runs.trained import evaluate_run as evaluate

__version__ = "0.1.0"

_PLACES = {
    "LabelSpace": "manyseg.labels",
    "Method": "manyseg.methods.base",
    "Model": "manyseg.prediction.model",
    "PixelMethod": "manyseg.methods.pixel",
    "Prediction": "manyseg.prediction.prediction",
    "Taxonomy": "manyseg.labels",
    "UserError": "manyseg.errors",
    "evaluate": "manyseg.runs.trained:evaluate_run",
    "load": "manyseg.runs.run",
    "propose_labels": "manyseg.runs.propose",
    "train": "manyseg.runs.run:train_recipe",
}

__getattr__ = first_use(__name__, _PLACES)

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


def __dir__() -> list[str]:
    return sorted(__all__)
