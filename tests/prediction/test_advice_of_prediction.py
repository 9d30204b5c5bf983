"""What messages of prediction from Python, of submissions and of videos advise works."""

import logging
import sys

import av
import numpy as np
import pytest
import torch
from advice import follow, tiff
from brightness import PARK, STREET, Brightness, photo
from PIL import Image
from test_video import film, picture

from manyseg.labels import LabelSpace
from manyseg.methods import find_method
from manyseg.models import PixelEncoder
from manyseg.prediction.drawing import PixelValues
from manyseg.prediction.model import Model
from manyseg.prediction.photo import Reading, read_photo
from manyseg.prediction.predict import predict_paths
from manyseg.prediction.segment_files import InstanceIds
from manyseg.prediction.submission import Submission
from manyseg.prediction.video import predict_videos
from manyseg.prediction.video_source import open_video

PIXELS = np.zeros((32, 32, 3), np.uint8)


@pytest.fixture
def model():
    return Model(Brightness(), [STREET, PARK])


@pytest.fixture(scope="module")
def real():
    encoder = PixelEncoder.build(backbone="tiny", pretrained=False, channels=8)
    return Model(find_method("multihead")(encoder, [STREET, PARK]).eval(), [STREET, PARK])


RANGE = {"value_range": (0, 4095), "bands": (1, 2, 3)}

CALLS = [
    (("a.png", "street"), {}, "there is no such file; add it, or leave it out", (PIXELS, "street"), {}),
    ((3, "street"), {}, "give a path, a Pillow image, a uint8 array", (Image.fromarray(PIXELS), "street"), {}),
    ((PIXELS / 2, "street"), {}, r"give uint8 \[H, W, 3\] or \[H, W\]", (PIXELS[..., 0], "street"), {}),
    (
        (torch.zeros(3, 32, 32), "street"),
        {},
        r"give uint8 \[3, H, W\]",
        (torch.zeros(3, 32, 32, dtype=torch.uint8), "street"),
        {},
    ),
    ((PIXELS, " , "), {}, "give a label space .street, park, unified. or words", (PIXELS, "street"), {}),
    ((PIXELS, "puddle"), {}, "give one of these, or relate it by text or a table", (PIXELS, "park"), {}),
    ((PIXELS, "park"), {"relate": "text"}, r"leave relate \(text\) out", (PIXELS, "park"), {}),
    ((PIXELS, "park"), {"bands": (0,)}, r"from 1 on, as \(4, 3, 2\)", ("b.tif", "park"), {"bands": (4, 3, 2)}),
    ((PIXELS, "park"), {"value_range": (1, 1)}, r"as \(0, 4095\)", ("b.tif", "park"), RANGE),
    ((PIXELS, "park"), RANGE, "give the image's path, or choose them yourself", ("b.tif", "park"), RANGE),
    ((PIXELS, "park"), RANGE, "or choose them yourself", (PIXELS, "park"), {}),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "options", "said", "right", "others"), CALLS)
def test_an_image_is_predicted_as_advised(real, tmp_path, monkeypatch, wrong, options, said, right, others):
    monkeypatch.chdir(tmp_path)
    tiff("b.tif", np.zeros((4, 32, 32), np.uint8))(tmp_path)
    follow(lambda: real.predict(*wrong, **options), said, lambda: real.predict(*right, **others))


def test_a_label_map_is_saved_as_advised(real, tmp_path):
    found = real.predict(PIXELS, "street")
    said = "label maps are written as PNG, which loses nothing; end the name in .png"
    follow(lambda: found.save(tmp_path / "a.jpg"), said, lambda: found.save(tmp_path / "a.png"))


def test_pictures_are_drawn_into_files_as_advised(real, tmp_path):
    found = real.predict(PIXELS, "street")
    follow(
        lambda: predict_paths(real, [], "street", tmp_path / "out"),
        "no image was given; name images or folders",
        lambda: predict_paths(real, [photo(tmp_path / "a.png")], "street", tmp_path / "out"),
    )
    assert found.overlay().size[0] >= 32


KINDS = [
    (["x"], "there are: masks, overlays", ["masks"]),
    ([], "choose one of: masks, overlays", ["overlays"]),
    (["coco_panoptic"], "leave --segments out", ["masks"]),
]


@pytest.mark.parametrize(("wrong", "said", "right"), KINDS)
def test_files_are_written_as_advised(model, tmp_path, wrong, said, right):
    def predict(kinds):
        return predict_paths(model, [photo(tmp_path / "a.png")], "street", tmp_path / "out", kinds=kinds)

    follow(lambda: predict(wrong), said, lambda: predict(right))


def test_what_was_begun_with_an_index_that_cannot_be_read_is_written_again_as_advised(model, tmp_path):
    def predict(**options):
        return predict_paths(model, [photo(tmp_path / "a.png")], "street", tmp_path / "out", **options)

    (tmp_path / "out").mkdir()
    (tmp_path / "out/labels.json").write_bytes(b"\xff\xfe\xf1")
    follow(lambda: predict(resume=True), "labels.json: cannot be read .*; leave --resume out", predict)


def test_images_that_cannot_be_read_are_fetched_again_and_the_others_are_done(model, tmp_path):
    photo(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").write_bytes(b"")
    predict = lambda: predict_paths(model, [tmp_path / "in"], "street", tmp_path / "out")  # noqa: E731
    said = "1 of 2 images could not be read, the first: .*b.png: .*fetch or export it again.*others are in"
    follow(predict, said, lambda: [photo(tmp_path / "in/b.png"), predict()])


def test_values_that_a_format_cannot_hold_are_written_in_another_as_advised(tmp_path):
    large = PixelValues((1, 70), 0)
    follow(
        lambda: InstanceIds(tmp_path, STREET, large),
        "instance ids hold 1 to 64; write coco_panoptic files",
        lambda: InstanceIds(tmp_path, STREET, PixelValues((1, 64), 0)),
    )
    follow(
        lambda: Submission(tmp_path, STREET, PixelValues((1, 700), 0)),
        "a submission has 8 bits; write --segments coco_panoptic, or masks",
        lambda: Submission(tmp_path, STREET, PixelValues((1, 7), 0)),
    )


def test_a_submission_is_completed_as_advised(model, tmp_path):
    values = {"submission": PixelValues((7, 2), 9)}
    files = tmp_path / "out/submission"

    def submit(folder=tmp_path / "in", **options):
        return predict_paths(
            model, [folder], "street", tmp_path / "out", kinds=["submission"], values=values, **options
        )

    for name in ("a/0.png", "a/1.png", "b/0.png"):
        photo(tmp_path / "in" / name)
    said = "would be one file of a submission; give one set of images"
    follow(submit, said, lambda: submit(tmp_path / "in/a"))
    for damage, advised, mend in (
        (lambda: Image.new("L", (12, 8)).save(files / "x.png"), "of no image .*; remove it", files / "x.png"),
        (lambda: Image.new("RGB", (12, 8)).save(files / "0.png"), "remove it, and predict again with --resume", None),
        (lambda: Image.new("L", (2, 2)).save(files / "0.png"), "2x2 pixels, its image 8x12; remove it", None),
        (lambda: Image.new("L", (12, 8), 5).save(files / "0.png"), "value 5 is not one of 'street'; remove it", None),
    ):
        damage()
        path = mend or files / "0.png"
        again = lambda: submit(tmp_path / "in/a", resume=True)  # noqa: E731
        follow(again, advised, lambda path=path: [path.unlink(), submit(tmp_path / "in/a", resume=True)])


VIDEOS = [
    (["a.mp4", "b.png"], {}, "segment images and videos in separate calls", ["a.mp4"], {}),
    (["a.mp4"], {"kinds": ["coco"]}, "choose from: masks, overlays", ["a.mp4"], {"kinds": ["masks"]}),
    (["a.mp4"], {"smooth": -1.0}, "--smooth is a number of seconds", ["a.mp4"], {"smooth": 1.0}),
    (["frames"], {"sequence": 0.0}, "frames a second, at most 1000", ["frames"], {"sequence": 1000.0}),
    (["text.mp4"], {}, "check the path, or fetch the file again", ["a.mp4"], {}),
    (["sound.mp4"], {}, "there is no video in this file; check the path", ["a.mp4"], {}),
    (["mixed"], {"sequence": 25.0}, "frames before are 4x4; give frames of one size", ["frames"], {"sequence": 25.0}),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "options", "said", "right", "others"), VIDEOS)
def test_videos_are_segmented_as_advised(model, tmp_path, caplog, wrong, options, said, right, others):
    film(tmp_path / "a.mp4", [picture(8)] * 2)
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    photo(tmp_path / "frames/0.png")
    Image.new("RGB", (4, 4)).save(photo(tmp_path / "mixed/1.png").with_name("0.png"))
    (tmp_path / "text.mp4").write_text("no video")
    with av.open(str(tmp_path / "sound.mp4"), "w") as file:
        stream = file.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate = 8000
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))

    def predict(names, more):
        return predict_videos(model, [tmp_path / n for n in names], "street", tmp_path / "out", **more)

    with caplog.at_level(logging.ERROR):
        follow(lambda: predict(wrong, options), said, lambda: predict(right, others))


def test_a_damaged_video_is_fetched_again_as_advised(model, tmp_path):
    source = film(tmp_path / "a.mp4", [picture(8)] * 2)
    whole = source.read_bytes()
    source.write_bytes(whole[:600])
    predict = lambda: predict_videos(model, [source], "street", tmp_path / "out")  # noqa: E731
    follow(predict, "check the path, or fetch the file again", lambda: [source.write_bytes(whole), predict()])


def test_a_video_without_a_frame_is_checked_as_advised(tmp_path, monkeypatch):
    source = film(tmp_path / "a.mp4", [picture(8)])
    opened = lambda: open_video(source)  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr("manyseg.prediction.video_source._Decoded._frames", lambda self: iter(()))
        follow(opened, "the video has no frame; check the file", lambda: [patch.undo(), opened()])


def test_cameras_are_read_where_they_are_as_advised(tmp_path, monkeypatch):
    source = film(tmp_path / "a.mp4", [picture(8)] * 2)
    monkeypatch.setattr(sys, "platform", "win32")
    said = "cameras are read on Linux and macOS; here, send their video through a pipe"
    follow(lambda: open_video("camera:0"), said, lambda: open_video(source))


def test_a_hierarchy_is_not_smoothed_as_advised(tmp_path):
    encoder = PixelEncoder.build(backbone="tiny", pretrained=False, channels=8)
    space = LabelSpace.of("a", ["road", "car"])
    model = Model(find_method("htss")(encoder, [space], taxonomy="names").eval(), [space])
    source = film(tmp_path / "a.mp4", [picture(8)] * 2)

    def predict(**options):
        return predict_videos(model, [source], "hierarchy", tmp_path / "out", kinds=["masks"], **options)

    follow(lambda: predict(smooth=1.0), "no scores of one softmax to average; omit --smooth", predict)


@pytest.mark.parametrize("name", ["rasterio", "av"])
def test_packages_are_installed_as_advised(model, tmp_path, monkeypatch, name):
    source = film(tmp_path / "a.mp4", [picture(8)])
    image = photo(tmp_path / "a.png")

    def predict():
        if name == "av":
            return open_video(source)
        return predict_paths(model, [image], "street", tmp_path / "out", kinds=["geojson"])

    said = {"rasterio": r'pip install "manyseg\[bands\]"', "av": r'pip install "manyseg\[video\]"'}[name]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, name, None)
        follow(predict, said, lambda: [patch.undo(), predict()])


def test_a_range_is_given_with_bands_as_advised(tmp_path):
    Image.new("CMYK", (8, 8)).save(tmp_path / "a.tif")
    read = lambda **given: read_photo(tmp_path / "a.tif", lambda size: size, Reading(**given))  # noqa: E731
    said = "CMYK pixels do not fit the range asked for; give --bands 1,2,3 too"
    follow(lambda: read(value_range=(0, 100)), said, lambda: read(value_range=(0, 100), bands=(1, 2, 3)))
