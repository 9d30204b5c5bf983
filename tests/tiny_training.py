"""A training of two datasets without a run's folder: its mixture, its method and its loop."""

from manyseg.data.mixture import Mixture
from manyseg.data.options import DataOptions
from manyseg.methods import find_method
from manyseg.models import PixelEncoder
from manyseg.training import loop
from manyseg.training.optimizer import seed_everything
from manyseg.training.options import TrainOptions


def tiny_mixture(world, per_step):
    """Open the datasets `fine` and `coarse`, with so many images of each in a step."""
    sets = [{"card": f"{name}.toml", "root": name, "per_step": per_step} for name in ("fine", "coarse")]
    return Mixture.open(DataOptions(crop=(32, 32), workers=0, sets=sets), world.folder, seed=0)


def tiny_method(mixture):
    """Build a head for each dataset on a tiny network, always the same."""
    seed_everything(0)
    pixels = PixelEncoder.build(backbone="tiny", pretrained=False, channels=8)
    return find_method("multihead")(pixels, [f.space for f in mixture.folders])


def tiny_fit(mixture, folder, method, **options):
    """Train in a folder, with scores that are always the same; return the method."""
    folder.mkdir(exist_ok=True)
    method = method or tiny_method(mixture)
    evaluate = lambda m: {"a": {"miou": 0.5, "pixel_accuracy": 0.5}}  # noqa: E731
    loop.train(method, mixture, TrainOptions(**options), folder, evaluate=evaluate)
    return method
