"""Recipes of runs that take a second: a tiny network, small crops, few steps; and files of several pages."""

from PIL import TiffImagePlugin

from manyseg.config import to_toml


def tiny_recipe(*names, method="multihead", workers=0, per_step=1, unseen=(), root=None, **train):
    """Return the text of a recipe that trains on the datasets `names`: each is a folder with a card beside it.

    With `root` all of them are there.
    """
    sets = [{"card": f"{n}.toml", "root": root or n, "per_step": per_step} for n in names]
    others = {"unseen": [{"card": f"{n}.toml", "root": n} for n in unseen]} if unseen else {}
    return to_toml(
        {
            "data": {"crop": [32, 32], "workers": workers, "sets": sets, **others},
            "model": {"backbone": "tiny", "pretrained": False, "channels": 8},
            "method": {"name": method},
            "train": {"steps": 1, **train},
        }
    )


def save_pages(path, pages, kinds):
    """Write a TIFF of several pages, each with what it is: 0 a page, 1 a smaller copy of one, 4 a mask."""
    with TiffImagePlugin.AppendingTiffWriter(path, new=True) as file:
        for page, kind in zip(pages, kinds, strict=True):
            page.save(file, format="TIFF", tiffinfo={254: kind})
            file.newFrame()
