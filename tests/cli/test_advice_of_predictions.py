"""What is said of images that are to be predicted works."""

import shutil

import numpy as np
import pytest
from advice import Case, cases, check, tiff
from PIL import Image
from typer.testing import CliRunner

from manyseg.cli import app
from manyseg.data import bands

PREDICTIONS = {
    "no run": Case("predict nowhere photos", "give the folder of a run", "predict runs/multihead photos"),
    "no image": Case(
        "predict runs/multihead none.png",
        "there is no such image or folder; check the path",
        "predict runs/multihead photos/0.png",
    ),
    "no image in a folder": Case(
        "predict runs/multihead empty", r"no image in this folder \(.bmp, .jpeg", "predict runs/multihead photos"
    ),
    "an input would be overwritten": Case(
        "predict runs/multihead masks/0.png --out .",
        "write to another folder with --out",
        "predict runs/multihead masks/0.png --out p",
    ),
    "16 bits": Case(
        "predict runs/multihead deep.png", "--range 0,4095", "predict runs/multihead deep.png --range 0,4095"
    ),
    "pages": Case(
        "predict runs/multihead pages.tif", "save each as an image of its own", "predict runs/multihead photos"
    ),
    "many bands": Case(
        "predict runs/multihead six.tif",
        "--bands 3,2,1 --range 0,4095",
        "predict runs/multihead six.tif --bands 3,2,1 --range 0,4095",
    ),
    "no band of that number": Case(
        "predict runs/multihead scene.tif --bands 7",
        "names band 7, but the image has 4",
        "predict runs/multihead scene.tif --bands 4",
    ),
    "floating point": Case(
        "predict runs/multihead float.tif --bands 1",
        "--range BLACK,WHITE",
        "predict runs/multihead float.tif --bands 1 --range 0,1",
    ),
    "no such labels": Case(
        "predict runs/multihead photos --labels finne",
        "did you mean 'fine'|give one of these",
        "predict runs/multihead photos --labels fine",
    ),
    "values of no card": Case(
        "predict runs/multihead photos --values card", "leave --values card out", "predict runs/multihead photos"
    ),
    "submission of no card": Case(
        "predict runs/multihead photos --write submission",
        "give --labels a dataset or card",
        "predict runs/multihead photos --write submission --labels fine",
    ),
    "smooth photos": Case(
        "predict runs/multihead photos/0.png --smooth 1", "leave them out", "predict runs/multihead photos/0.png"
    ),
    "sequence of one photo": Case(
        "predict runs/multihead photos/0.png --sequence 5", "leave them out", "predict runs/multihead photos/0.png"
    ),
    "segments of classes": Case(
        "predict runs/multihead photos --segments coco_panoptic",
        "leave --segments out",
        "predict runs/multihead photos",
    ),
    "resumed with other labels": Case(
        "predict runs/multihead photos --out p --resume --labels fine",
        "leave --resume out to write all again, or choose another --out",
        "predict runs/multihead photos --out p --labels fine",
    ),
    "resumed with a file at the end": Case(
        "predict runs/multihead photos --write coco --resume --labels fine",
        "leave --resume out, or that kind of file",
        "predict runs/multihead photos --write coco --labels fine",
    ),
    "scores of a hierarchy": Case(
        "predict runs/htss photos --labels hierarchy --write scores",
        "write masks",
        "predict runs/htss photos --labels hierarchy --write masks",
    ),
    "set of a trained run": Case(
        "predict runs/multihead photos --set train.lr=1",
        r"only keys of \[test\] can be set, as test.flip=true",
        "predict runs/multihead photos --set test.flip=true",
    ),
    "large image of many bands": Case(
        "predict runs/multihead large6.tif --set test.window=[1024,1024]",
        "say which are red, green and blue: .*--bands 3,2,1",
        "predict runs/multihead large6.tif --set test.window=[1024,1024] --bands 3,2,1",
    ),
    "large image": Case(
        "predict runs/multihead large.tif",
        r"--set test.window=\[1024,1024\]",
        "predict runs/multihead large.tif --set test.window=[1024,1024]",
    ),
    "a kind that is not written of large images": Case(
        "predict runs/multihead large.tif --write geojson --set test.window=[1024,1024]",
        "choose from: masks, overlays",
        "predict runs/multihead large.tif --write masks --set test.window=[1024,1024]",
    ),
}


def moved(place):
    (place / "masks").mkdir()
    shutil.copy(place / "photos/0.png", place / "masks/0.png")


def pages(place):
    first, second = (Image.open(place / f"photos/{i}.png") for i in range(2))
    first.save(place / "pages.tif", save_all=True, append_images=[second])


def earlier(place):
    assert (
        CliRunner().invoke(app, [*f"predict {place}/runs/multihead {place}/photos --out {place}/p".split()]).exit_code
        == 0
    )


PREPARED = {
    "large image of many bands": tiff("large6.tif", np.zeros((6, 100, 100), np.uint8)),
    "an input would be overwritten": moved,
    "pages": pages,
    "many bands": tiff("six.tif", np.full((6, 40, 48), 3000, np.uint16)),
    "floating point": tiff("float.tif", np.full((2, 40, 48), 0.5, np.float32)),
    "resumed with other labels": earlier,
}


@pytest.mark.parametrize("case", cases(PREDICTIONS, PREPARED))
def test_predictions(case, place, monkeypatch):
    if "large" in case.typed:
        monkeypatch.setattr(bands, "LARGE", 100 * 100)
        tiff("large.tif", np.zeros((3, 100, 100), np.uint8))(place)
    check(case, place, monkeypatch)
