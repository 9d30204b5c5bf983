"""The documentation: its links lead somewhere, its navigation has every page, its examples work."""

import importlib.util
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from manyseg.config import check, keywords
from manyseg.data.annotation import Dense
from manyseg.data.batch import Batch
from manyseg.data.encodings import ImageFiles, RawValues, Regions
from manyseg.data.encodings.base import Encoding
from manyseg.data.files import DataError
from manyseg.data.window import Size
from manyseg.labels import LabelClass, LabelSpace
from manyseg.methods import find_method
from manyseg.models import PixelEncoder
from manyseg.training.optimizer import build_optimizer, parameter_groups
from manyseg.training.options import TrainOptions

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")


def blocks(page, language="python"):
    """Return the code blocks of a page, in order."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def anchors(page):
    """Return the anchors of a page's headings, as git hosts and the site make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_leads_to_a_file_and_a_heading(page):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name}: {link}: there is no such file"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}: {target.name} has no such heading"


def test_the_navigation_names_every_page():
    lines = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    named = re.findall(r"[\w.-]+\.md", lines)
    assert sorted(named) == sorted(p.name for p in (ROOT / "docs").glob("*.md"))


def test_every_requirement_has_a_lowest_version(capsys):
    path = ROOT / "tests" / "lowest_versions.py"
    spec = importlib.util.spec_from_file_location("lowest_versions", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    required = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert module.lowest(["torch>=2.6", "a-b==1.0.1"]) == ["torch==2.6", "a-b==1.0.1"]
    assert len(module.lowest(required)) == len(required)
    with pytest.raises(SystemExit, match="numpy<3: write it as"):
        module.lowest(["numpy<3"])


def test_the_example_of_an_encoding_reads_what_it_says(tmp_path):
    (code,) = [b for b in blocks("docs/adding.md") if "(Encoding)" in b]
    names = {
        "Encoding": Encoding,
        "ImageFiles": ImageFiles,
        "Regions": Regions,
        "DataError": DataError,
        "Size": Size,
        "np": np,
    }
    exec(code, names)
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", np.array([[7, 7, 3], [3, 3, 9]], np.uint16))
    files = ImageFiles("a", "a", tmp_path / "a.png", mask=tmp_path / "a.npy")
    raw = RawValues({7: 1, 3: 0}, others_ignored=True, identified=np.zeros(2, bool), said={})
    encoding = names["NumpyMasks"](raw)
    assert encoding.size(files) == (2, 3)
    assert encoding.read(files).labels().tolist() == [[1, 1, 0], [0, 0, -1]]
    strict = names["NumpyMasks"](raw._replace(others_ignored=False))
    with pytest.raises(DataError, match="value 9 is not in the card"):
        strict.read(files)


@pytest.mark.parametrize("recipe", blocks("docs/networks.md", "toml"), ids=lambda text: text.split('"')[1])
def test_a_recipe_of_the_networks_page_trains(recipe, small):
    tables = tomllib.loads(recipe)
    given = check(keywords(PixelEncoder.build, "Model"), tables["model"], "networks.md").model_dump(exclude_unset=True)
    pixels = PixelEncoder.build(**{**given, "pretrained": False, "channels": 32})
    space = LabelSpace("a", (LabelClass("x"), LabelClass("y")))
    method = tables.get("method", {"name": "multihead"})
    extra = {"classifier": "heads", "blocks": 2} if method["name"] == "lmseg" else {}
    kind = find_method(method.pop("name"))
    method = kind(
        pixels, [space], **check(keywords(kind, "M"), method, "networks.md").model_dump(exclude_unset=True), **extra
    )
    options = TrainOptions(**tables.get("train", {}))
    optimizer = build_optimizer(parameter_groups(method, options), options)
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    labels = Dense(torch.randint(0, 2, (2, 64, 96)))
    sum(method.train()([Batch(space, ("1", "2"), images, labels)]).values()).backward()
    assert all(p.grad is not None for group in optimizer.param_groups for p in group["params"])
    optimizer.step()


@pytest.mark.parametrize(
    ("page", "head", "without"), [("reliability", "| promise", ""), ("papers", "| what", "| none:")]
)
def test_every_promise_names_tests_that_are_there(page, head, without):
    text = (ROOT / f"docs/{page}.md").read_text(encoding="utf-8").split("\n## The long test")[0]
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(head)]
    assert rows
    for row in rows:
        found = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row)
        assert found or (without and without in row), row
        for file, name in found:
            assert f"\ndef {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{name}"
