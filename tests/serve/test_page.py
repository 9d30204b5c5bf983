"""The page in a real browser: photos in, label maps out, by mouse, by keyboard, and on a phone."""

import io
import json
import time
import zipfile

import numpy as np
import pytest
from browser import Tab, needs_chromium
from conftest import served
from PIL import Image
from words import write_encoder

from manyseg.labels import LabelSpace
from manyseg.methods import find_method
from manyseg.models import PixelEncoder
from manyseg.prediction.model import Model
from manyseg.serve.served import Served

pytestmark = needs_chromium

DONE = "photos.length && photos.every((p) => ['done', 'failed'].includes(p.state)) && mapOf(runs[0])?.ready"


@pytest.fixture
def photos(photo, tmp_path):
    """Two photos of different sizes."""
    (tmp_path / "street one.png").write_bytes(photo)
    with Image.open(io.BytesIO(photo)) as image:
        image.resize((40, 60)).save(tmp_path / "zwei.jpg")
    return [tmp_path / "street one.png", tmp_path / "zwei.jpg"]


@pytest.fixture
def tab(tmp_path):
    with Tab(tmp_path) as tab:
        tab.downloads(tmp_path / "got")
        yield tab


@pytest.fixture
def one(site, tab, photos):
    """The page with two photos, of which the first is shown."""
    tab.open(site.address)
    tab.until("runs.length")
    tab.choose("#choose", photos)
    tab.until(DONE)
    yield tab
    # Chromium advises how the pixels that these tests read back are read faster.
    assert [e for e in tab.errors if "Canvas2D" not in e] == []


def place(tab, x, y):
    """Where a pixel of the first photo is on the screen."""
    box = "document.querySelector('.sheet').getBoundingClientRect()"
    left, top, width, height = tab.run(f"(() => {{ const b = {box}; return [b.left, b.top, b.width, b.height]; }})()")
    return left + (x + 0.5) * width / 64, top + (y + 0.5) * height / 48


def text(tab, selector):
    return tab.run(f"[...document.querySelectorAll({json.dumps(selector)})].map((e) => e.textContent)")


def arrived(folder, name):
    end = time.monotonic() + 60
    while not (folder / name).exists():
        assert time.monotonic() < end, list(folder.iterdir())
        time.sleep(0.05)
    return folder / name


def test_the_pointer_says_what_a_pixel_is_called_in_every_dataset(one, runs, photos):
    expected = {n: runs[0].model.predict(photos[0], n) for n in ("unified", "fine", "coarse", "hierarchy")}
    confidence = np.exp((s := runs[0].model.predict(photos[0], "unified", scores=True).scores) - s.max(0))
    sure = (confidence / confidence.sum(0)).max(0)
    for x, y in ((5, 4), (40, 40)):
        one.point(*place(one, x, y))
        names = {n: p.names[p.labels[y, x]] for n, p in expected.items()}
        assert text(one, "#under .name span")[0] == names["unified"]
        share = sure[y * sure.shape[0] // 48, x * sure.shape[1] // 64]
        assert abs(int(text(one, "#under .sure")[0].removesuffix(" %")) - 100 * share) <= 1
        rows = dict(zip(*[iter(text(one, "#under .run:first-child td"))] * 2, strict=True))
        assert {n: v.strip() for n, v in rows.items()} == {n: v for n, v in names.items() if n != "unified"}
    assert one.run("document.querySelector('.tip').hidden") is False


def test_labels_are_switched_and_a_class_is_shown_alone(one, runs, photos):
    painted = "[...document.querySelector('canvas').getContext('2d').getImageData(0, 0, 64, 48).data]"
    for labels in ("unified", "coarse"):
        one.run(f"(at('labels').value = '{labels}', at('labels').dispatchEvent(new Event('change')))")
        one.until(f"document.querySelector('.labels').textContent === '{labels}'")
        found = runs[0].model.predict(photos[0], labels)
        pixels = np.array(one.run(painted), np.uint8).reshape(48, 64, 4)
        np.testing.assert_array_equal(pixels[..., :3], found.colors[found.labels])
        assert (pixels[..., 3] == 255).all()
    first = one.run("document.querySelector('#legend button').value")
    one.run("document.querySelector('#legend button').click()")
    pixels = np.array(one.run(painted), np.uint8).reshape(48, 64, 4)
    np.testing.assert_array_equal(pixels[..., 3] == 255, found.labels == found.names.index(first))
    one.press("Escape", 27)
    assert (np.array(one.run(painted), np.uint8).reshape(-1, 4)[:, 3] == 255).all()


def test_two_runs_are_compared_side_by_side(one, runs, photos):
    one.run("(at('labels').value = 'fine', at('labels').dispatchEvent(new Event('change')))")
    one.until("mapOf(runs[1], 'fine')?.ready && document.querySelector('.labels').textContent === 'fine'")
    assert text(one, "figcaption b, figcaption") == ["htssfine", "multiheadfine"]
    one.point(*place(one, 20, 30))
    maps = [r.model.predict(photos[0], "fine") for r in runs]
    assert text(one, "#under .name span:not(.sure)") == [m.names[m.labels[30, 20]] for m in maps]
    same = maps[0].labels == maps[1].labels
    one.until("at('said').textContent")
    assert f"agree on {round(100 * same.mean())} %" in one.run("at('said').textContent")
    one.run("at('differ').click()")
    alpha = one.run("[...document.querySelectorAll('canvas')[1].getContext('2d').getImageData(0, 0, 64, 48).data]")
    np.testing.assert_array_equal(np.array(alpha).reshape(48, 64, 4)[..., 3] == 0, same)


def test_label_maps_overlays_and_all_of_them_are_downloaded(one, runs, photos, tmp_path):
    one.run("at('save-mask').click()")
    expected = runs[0].model.predict(photos[0], "unified").labels
    with Image.open(arrived(tmp_path / "got", "street one.htss.png")) as image:
        np.testing.assert_array_equal(np.array(image), expected)
    one.run("at('save-overlay').click()")
    with Image.open(arrived(tmp_path / "got", "street one.multihead.jpg")) as image:
        assert image.size == (64, 48)
    one.run("at('save-all').click()")
    with zipfile.ZipFile(arrived(tmp_path / "got", "manyseg.zip")) as archive:
        assert archive.testzip() is None
        inside = [
            "labels.json",
            "masks/street one.png",
            "masks/zwei.png",
            "overlays/street one.jpg",
            "overlays/zwei.jpg",
        ]
        assert sorted(archive.namelist()) == [f"{run}/{name}" for run in ("htss", "multihead") for name in inside]
        with Image.open(archive.open("htss/masks/street one.png")) as image:
            np.testing.assert_array_equal(np.array(image), expected)
        with Image.open(archive.open("htss/overlays/zwei.jpg")) as image:
            assert image.size == (40, 60)
        assert json.loads(archive.read("multihead/labels.json"))["space"] == "unified"


def test_everything_is_done_by_the_keyboard(one, runs, photos):
    one.press("l", 76)
    assert one.run("document.activeElement.id") == "labels"
    one.run("document.querySelector('.picture').focus()")
    one.press("ArrowRight", 39, shift=True)
    found = runs[0].model.predict(photos[0], "unified")
    assert one.run("cursor") == [33, 24]
    assert found.names[found.labels[24, 33]] in one.run("at('said').textContent")
    one.press("+", 187)
    assert one.run("document.querySelector('canvas').style.opacity") == "0.75"
    one.press("0", 48)
    assert one.run("document.querySelector('canvas').style.opacity") == "0"
    one.press("n", 78)
    assert one.run("current.name") == "zwei"
    one.until("mapOf(runs[0])?.ready && document.querySelector('.sheet').style.aspectRatio === '40 / 60'")
    one.press("p", 80)
    assert one.run("current.name") == "street one"
    reached = set()
    for _ in range(30):
        one.press("Tab", 9)
        reached.add(
            one.run("document.activeElement.id || document.activeElement.className || document.activeElement.tagName")
        )
    assert {"choose", "labels", "opacity", "save-mask", "save-all", "picture"} <= reached


def test_words_of_ones_own_are_read_where_the_method_reads_words(tab, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("MANYSEG_CACHE", str(tmp_path / "cache"))
    space = LabelSpace.of("street", ["road", "sky"])
    encoder = write_encoder(tmp_path / "bert", ["road", "sky", "grass", "wall", "background"])
    pixels = PixelEncoder.build(backbone="tiny", pretrained=False, channels=16)
    sizes = {"queries": 12, "blocks": 1, "attention_heads": 4, "prompt_tokens": 0}
    model = Model(find_method("lmseg")(pixels, [space], text=encoder, **sizes), [space])
    with served([Served("words", None, model, None)]) as site:
        tab.open(site.address)
        tab.until("runs.length")
        tab.choose("#choose", photos[:1])
        tab.until(DONE)
        assert tab.run("[...at('labels').options].map((o) => o.text)")[-1] == "words of your own …"
        assert "and any words" in tab.run("at('known').textContent")
        tab.run("(at('labels').selectedIndex = 2, at('labels').dispatchEvent(new Event('change')))")
        assert tab.run("document.activeElement.id") == "words"
        for letter in "grass, wall":
            tab.press(letter)
        tab.press("Tab", 9)
        tab.until("mapOf(runs[0], 'grass, wall')?.ready && document.querySelector('#legend button')")
        found = model.predict(photos[0], ["grass", "wall"])
        assert text(tab, "#legend li button span:nth-of-type(1)") == list(found.shares)
        tab.run("(at('words').value = 'a|b', at('words').dispatchEvent(new Event('change')))")
        tab.until("at('said').classList.contains('fault')")
        assert "contains '|'" in tab.run("at('said').textContent")


def test_it_fits_a_phone(one):
    one.resize(400, 800, phone=True)
    assert one.run("document.documentElement.scrollWidth") == 400
    assert one.run("getComputedStyle(document.querySelector('.camera')).display") != "none"
    assert one.run("at('camera').getAttribute('capture')") == "environment"
    widths = one.run("[...document.querySelectorAll('.sheet')].map((e) => e.getBoundingClientRect().width)")
    assert all(350 < width <= 400 for width in widths)
    tops = one.run("[...document.querySelectorAll('.view')].map((e) => e.getBoundingClientRect().top)")
    assert tops[0] < tops[1]


def test_photos_are_dropped_anywhere_on_the_page(site, tab, photos):
    tab.open(site.address)
    tab.until("runs.length")
    assert tab.run("at('drop').hidden") is True
    seen = (
        "new MutationObserver(() => { window.sheet ||= !at('drop').hidden; }).observe(at('drop'), { attributes: true })"
    )
    tab.run(seen)
    for kind in ("dragEnter", "dragOver"):
        tab.drag(kind, photos, 300, 400)
    tab.until("window.sheet")
    # Given up, without another event.
    tab.until("at('drop').hidden")
    assert tab.run("photos.length") == 0
    for kind in ("dragEnter", "dragOver"):
        tab.drag(kind, photos, 300, 400)
    tab.drag("drop", photos, 300, 400)
    tab.until(f"photos.length === 2 && {DONE}")
    assert tab.run("at('drop').hidden") is True
    assert tab.run("photos.map((p) => p.name)") == ["street one", "zwei"]
    assert [e for e in tab.errors if "Canvas2D" not in e] == []


def test_a_photo_is_pasted_and_what_fails_is_said(site, tab, photo):
    tab.open(site.address)
    tab.until("runs.length")
    given = ",".join(map(str, photo))
    tab.run(
        "(() => { const paste = (bytes, name) => { const data = new DataTransfer();"
        "data.items.add(new File([new Uint8Array(bytes)], name, { type: 'image/png' }));"
        "dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, cancelable: true })); };"
        f"paste([{given}], 'image.png'); paste([1, 2, 3], 'image.png'); }})()"
    )
    tab.until("photos.length === 2 && photos.every((p) => ['done', 'failed'].includes(p.state))")
    assert tab.run("photos.map((p) => [p.name, p.state])") == [["image", "done"], ["image-2", "failed"]]
    assert "image-2: this is no image of a known format" in tab.run("at('said').textContent")
    assert tab.run("document.querySelector('.wait').textContent").startswith("this is no image")
    # The browser's own log of the refusal; nothing else went wrong.
    assert [e for e in tab.errors if "415" not in e and "ERR_" not in e] == []
