"""Videos to videos of overlays and label maps."""

import json
import logging
import os
import signal
import sys
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from brightness import PARK, STREET, Brightness, photo
from PIL import Image

from manyseg import stop_signals
from manyseg.errors import Interrupted, UserError
from manyseg.inference.options import TestOptions
from manyseg.labels import LabelSpace
from manyseg.prediction import video as module
from manyseg.prediction.drawing import FrameOverlays, PixelValues
from manyseg.prediction.model import Model
from manyseg.prediction.video import Smoothing, predict_videos
from manyseg.prediction.video_source import Frame, is_video, open_video

MILLISECONDS = Fraction(1, 1000)
SIZE = (48, 64)


def picture(bright):
    """Return a frame whose left columns are dark, and whose last `bright` columns are bright."""
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[:, SIZE[1] - bright :] = 255
    return pixels


def film(path, pictures, times=None, base=Fraction(1, 25), codec="libx264", rate=25, **options):
    """Write a video whose frames are shown at `times`, in units of `base`; by default one after the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = base
        for time, pixels in zip(times or range(len(pictures)), pictures, strict=False):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = time, base
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def frames(path, kind="rgb24"):
    """Return the (seconds, pixels) of a video."""
    with av.open(str(path)) as file:
        return [(float(f.time), f.to_ndarray(format=kind)) for f in file.decode(video=0)]


@pytest.fixture
def model():
    return Model(Brightness(), [STREET, PARK], TestOptions())


def test_every_frame_has_a_label_map_without_loss_and_an_overlay_at_its_time(tmp_path, model):
    source = film(tmp_path / "drive.mp4", [picture(8 * n) for n in range(6)])
    done = predict_videos(model, [source], "street", tmp_path / "out")
    assert done.files == [tmp_path / "out/masks/drive.mkv"]
    masks, overlays = frames(done.files[0], "gray"), frames(tmp_path / "out/overlays/drive.mp4")
    assert [t for t, _ in masks] == [t for t, _ in overlays] == [n / 25 for n in range(6)]
    for n, (_, values) in enumerate(masks):
        assert values.tolist() == [[0] * (64 - 8 * n) + [1] * 8 * n] * 48
    # 0.55 of (200, 100, 0) and 0.45 of white; 0.55 of (10, 20, 30) on black.
    picture_of_last = overlays[-1][1].astype(int)
    np.testing.assert_allclose(picture_of_last[20, 50], [225, 170, 115], atol=6)
    np.testing.assert_allclose(picture_of_last[20, 5], [6, 11, 17], atol=6)
    assert picture_of_last.shape[0] == 48
    assert picture_of_last.shape[1] > 64
    labels = json.loads((tmp_path / "out/labels.json").read_text())
    assert [c["value"] for c in labels["classes"]] == [0, 1]
    assert done.images.tolist() == [6, 5]
    assert done.pixels.tolist() == [48 * (6 * 64 - 8 * 15), 48 * 8 * 15]
    assert done.to_text().startswith("6 frames in ")


def test_frame_rate_variable_times_and_duration_are_kept(tmp_path, model):
    times = [0, 40, 80, 200, 1000]
    source = film(tmp_path / "a.mp4", [picture(8)] * 5, times, MILLISECONDS)
    predict_videos(model, [source], "street", tmp_path / "out")
    for name in ("masks/a.mkv", "overlays/a.mp4"):
        assert [t for t, _ in frames(tmp_path / "out" / name)] == [t / 1000 for t in times]
        with av.open(str(tmp_path / "out" / name)) as file:
            assert file.duration / av.time_base == pytest.approx(1.04, abs=0.001)
    odd = film(tmp_path / "b.mp4", [picture(8)] * 30, base=Fraction(1001, 30000), rate=Fraction(30000, 1001))
    predict_videos(model, [odd], "street", tmp_path / "out")
    with av.open(str(tmp_path / "out/overlays/b.mp4")) as file:
        assert file.streams.video[0].average_rate == Fraction(30000, 1001)
        assert file.streams.video[0].frames == 30


def test_the_rotation_of_a_phone_is_respected(tmp_path, model):
    """A matrix of MP4's track header says by how much a player turns the frames: here 90 degrees clockwise."""
    source = film(tmp_path / "a.mp4", [picture(32)] * 2)
    content = source.read_bytes()
    one = 0x00010000
    plain = b"".join(v.to_bytes(4, "big") for v in (one, 0, 0, 0, one, 0, 0, 0, 0x40000000))
    turned = b"".join((v % 2**32).to_bytes(4, "big") for v in (0, one, 0, -one, 0, 0, 48 * one, 0, 0x40000000))
    place = content.index(plain, content.index(b"tkhd"))
    source.write_bytes(content[:place] + turned + content[place + 36 :])
    video = open_video(source)
    assert video.size == (64, 48)
    found = next(video.frames)
    # The right, bright half is below.
    assert found.image[:, :30].max() < 20
    assert found.image[:, 34:].min() > 235
    predict_videos(model, [source], "street", tmp_path / "out")
    assert frames(tmp_path / "out/masks/a.mkv", "gray")[0][1].shape == (64, 48)


def test_a_folder_is_one_sequence_where_a_rate_is_given(tmp_path, model, caplog):
    for n in range(4):
        photo(tmp_path / "in" / f"{n}.png", (8, 12))
    (tmp_path / "in/2.png").write_bytes(b"no image")
    photo(tmp_path / "in/4.png", (8, 14))
    with pytest.raises(UserError, match=r"2 of 5 frames could not be read, the first: .*2\.png"):
        predict_videos(model, [tmp_path / "in"], "street", tmp_path / "out", sequence=12.5)
    found = frames(tmp_path / "out/masks/in.mkv", "gray")
    assert [t for t, _ in found] == [0, 0.08, 0.24]
    assert found[0][1].tolist() == [[0] * 6 + [1] * 6] * 8
    assert "4.png: 14x8, but the frames before are 12x8; give frames of one size" in caplog.text


def test_damaged_frames_are_named_the_others_are_done_and_all_of_a_file_that_is_fetched_again_as_advised(
    tmp_path, model, caplog
):
    """Of an intra-only codec, each frame stands for itself."""
    source = film(tmp_path / "a.mkv", [picture(32)] * 5, codec="ffv1", g="1")
    with av.open(str(source)) as file:
        packets = [(p.pos, p.size) for p in file.demux(video=0) if p.size]
    content = bytearray(source.read_bytes())
    with av.open(str(source)) as file:
        third = [bytes(p) for p in file.demux(video=0) if p.size][2]
    place = content.index(third, packets[2][0])
    whole = bytes(content)
    content[place : place + len(third)] = b"\xff" * len(third)
    source.write_bytes(content)
    with caplog.at_level(logging.WARNING), pytest.raises(UserError, match="1 of 5 frames could not be read") as error:
        predict_videos(model, [source], "street", tmp_path / "out")
    assert f"{source}: 0.08 s: a frame " in str(error.value)
    assert "check the path, or fetch the file again" in str(error.value)
    assert len([m for m in caplog.messages if "0.08 s" in m]) == 1
    found = frames(tmp_path / "out/masks/a.mkv", "gray")
    assert [round(t, 2) for t, _ in found] == [0, 0.04, 0.12, 0.16]
    source.write_bytes(whole)
    predict_videos(model, [source], "street", tmp_path / "again")
    assert len(frames(tmp_path / "again/masks/a.mkv", "gray")) == 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_in_the_middle_leaves_files_that_can_be_played(tmp_path, model, monkeypatch, number):
    source = film(tmp_path / "a.mp4", [picture(32)] * 200)
    predict, calls = model.predict_batch, []

    def stop(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), number)
        return predict(*args, **kwargs)

    monkeypatch.setattr(model, "predict_batch", stop)
    monkeypatch.setattr(module, "images_at_once", lambda device, size: 20)
    with pytest.raises(Interrupted, match=r"; 20 frames of .*a\.mp4 are in .*a\.mkv, .*a\.mp4") as e:
        predict_videos(model, [source], "street", tmp_path / "out")
    assert e.value.status == 128 + number
    for name in ("masks/a.mkv", "overlays/a.mp4"):
        assert [t for t, _ in frames(tmp_path / "out" / name)] == [n / 25 for n in range(20)]
    assert signal.getsignal(number) is not stop_signals.StopSignals._take


def test_a_full_disk_leaves_the_frames_before_it(tmp_path, model, monkeypatch):
    from manyseg.prediction.video_outputs import MaskVideo

    add, added = MaskVideo.add, []

    def full(self, frame, found):
        added.append(frame)
        if len(added) > 10:
            raise OSError(28, "No space left on device")
        add(self, frame, found)

    monkeypatch.setattr(MaskVideo, "add", full)
    source = film(tmp_path / "a.mp4", [picture(32)] * 40)
    with pytest.raises(UserError, match=r"cannot be written .No space left on device.; make room on the disk"):
        predict_videos(model, [source], "street", tmp_path / "out", kinds=["masks"])
    assert len(frames(tmp_path / "out/masks/a.mkv", "gray")) == 10


def test_smoothing_averages_probabilities_over_seconds(tmp_path, model):
    """After t seconds the past has the weight exp(-t / seconds), here 1/2 and 1/4."""
    smoothing = Smoothing(1 / np.log(2))
    scores = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0], [-torch.inf, 0.0]])[..., None, None]
    found = smoothing(scores[:2], [0.0, 1.0])
    np.testing.assert_allclose(found[..., 0, 0], [[1, 0], [0.5, 0.5]], atol=1e-6)
    np.testing.assert_allclose(smoothing(scores[2:], [3.0])[0, :, 0, 0], [0.125, 0.875], atol=1e-6)
    nothing = Smoothing(1.0)(torch.full((1, 2, 1, 1), -torch.inf), [0.0])
    assert torch.isneginf(nothing).all()


def test_a_flicker_of_one_frame_is_smoothed_away_only_where_it_is_asked(tmp_path, model):
    source = film(tmp_path / "a.mp4", [picture(0)] * 5 + [picture(64)] + [picture(0)] * 5)
    for seconds, bright in ((0.0, 1), (1.0, 0)):
        done = predict_videos(model, [source], "street", tmp_path / "out", kinds=["masks"], smooth=seconds)
        assert done.images.tolist() == [11 - bright, bright]


def test_more_than_255_classes_have_16_bits(tmp_path, model):
    model.method.taxonomy = model.method.taxonomy.__class__.disjoint([LabelSpace.of("s", map(str, range(300)))])
    space = model.taxonomy.unified
    model.method.predict = lambda bright, space, relation: torch.cat([bright] * 299 + [bright + 1], 1)
    source = film(tmp_path / "a.mp4", [picture(8)] * 2)
    (path,) = predict_videos(model, [source], out=tmp_path / "out", kinds=["masks"]).files
    assert len(space) == 300
    assert (frames(path, "gray16le")[0][1] == 299).all()


def test_values_are_those_of_the_card_where_they_are_given(tmp_path, model):
    source = film(tmp_path / "a.mp4", [picture(32)])
    values = {"masks": PixelValues((7, 9), 255)}
    (path,) = predict_videos(model, [source], "street", tmp_path / "out", kinds=["masks"], values=values).files
    assert set(frames(path, "gray")[0][1].ravel().tolist()) == {7, 9}


def test_the_legend_keeps_its_place_while_classes_come_and_go():
    overlays = FrameOverlays(LabelSpace("street", (*STREET.classes, *PARK.classes)), (41, 120))
    image = torch.zeros(3, 41, 120, dtype=torch.uint8)
    first = np.asarray(overlays.draw(image, np.full((41, 120), 1)))
    second = np.asarray(overlays.draw(image, np.zeros((41, 120), int)))
    third = np.asarray(overlays.draw(image, np.full((41, 120), 1)))
    assert first.shape == second.shape == third.shape == (*overlays.size_out, 3)
    assert [side % 2 for side in overlays.size_out] == [0, 0]
    assert overlays.occurred == [1, 0]
    swatch = [tuple(p) for p in second[:, 120:].reshape(-1, 3).tolist()]
    assert {(200, 100, 0), (10, 20, 30)} <= set(swatch)
    # What was in the legend is where it was.
    rows = np.flatnonzero((first[:, 128] == (200, 100, 0)).all(-1))
    np.testing.assert_array_equal(second[rows, 120:136], first[rows, 120:136])
    np.testing.assert_array_equal(third, np.concatenate([first[:, :120], second[:, 120:]], 1))


@pytest.mark.parametrize(
    ("source", "sequence", "video"),
    [("a.MP4", None, True), ("-", None, True), ("camera:1", None, True), ("/dev/video0", None, True),
     ("a.jpg", None, False), (".", None, False), (".", 25.0, True)],
)  # fmt: skip
def test_what_a_video_is(source, sequence, video):
    assert is_video(source, sequence) == video


@pytest.mark.parametrize(
    ("system", "asked", "name", "kind"),
    [("linux", "camera:1", "/dev/video1", "v4l2"), ("linux", "/dev/video0", "/dev/video0", "v4l2"),
     ("darwin", "camera:1", "1", "avfoundation")],
)  # fmt: skip
def test_a_camera_is_opened_by_the_name_that_the_system_has_for_it(monkeypatch, tmp_path, system, asked, name, kind):
    source = film(tmp_path / "a.mp4", [picture(8)] * 2)
    seen, opened = [], av.open

    def camera(*args, **kwargs):
        seen.append((args, kwargs))
        return opened(str(source))

    monkeypatch.setattr(av, "open", camera)
    monkeypatch.setattr(sys, "platform", system)
    video = open_video(asked)
    assert seen == [((name,), {"format": kind})]
    assert len(list(video.frames)) == 2


def test_a_camera_that_is_not_there_is_one_line():
    with pytest.raises(UserError, match=r"camera:97: no video can be read .*; check that the camera is there") as e:
        open_video("camera:97")
    assert "\n" not in str(e.value)


def test_a_pipe_is_read_as_it_comes(tmp_path, model):
    source = film(tmp_path / "a.mkv", [picture(8)] * 3)
    before = os.dup(0)
    try:
        with source.open("rb") as file:
            os.dup2(file.fileno(), 0)
            video = open_video("-")
            assert (video.name, video.size, len(list(video.frames))) == ("stdin", (48, 64), 3)
        with source.open("rb") as file:
            os.dup2(file.fileno(), 0)
            done = predict_videos(model, ["-"], "street", tmp_path / "out", kinds=["masks"])
            assert done.files == [tmp_path / "out/masks/stdin.mkv"]
        with Path(os.devnull).open("rb") as file:
            os.dup2(file.fileno(), 0)
            with pytest.raises(UserError, match=r"-: no video can be read .*-movflags \+faststart"):
                open_video("-")
    finally:
        os.dup2(before, 0)
        os.close(before)


def test_memory_holds_a_few_frames_however_many_there_are(tmp_path):
    taken = []

    def endless():
        while True:
            taken.append(len(taken))
            yield Frame(torch.zeros(3, 2, 2, dtype=torch.uint8), len(taken), 1)

    found = module._ahead(endless())
    assert len(list(islice(found, 5))) == 5
    found.close()
    assert len(taken) <= 5 + module.WAITING + 2


def test_what_does_not_fit_is_said_before_anything_is_written(tmp_path, model):
    source = film(tmp_path / "a.mp4", [picture(8)])
    (tmp_path / "text.mp4").write_text("no video")
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    for given, options, message in (
        ([source, tmp_path / "b.png"], {}, "b.png: no video; segment images and videos in separate calls"),
        ([source], {"kinds": ["masks", "coco"]}, "'coco' is not written of videos; choose from: masks, overlays"),
        ([source], {"smooth": -1.0}, "--smooth is a number of seconds"),
        ([tmp_path], {"sequence": 0.0}, "--sequence one of frames a second"),
        ([tmp_path / "text.mp4"], {}, "text.mp4: no video can be read"),
        ([tmp_path / "none.mp4"], {}, "none.mp4: no video can be read .No such file or directory."),
    ):
        with pytest.raises(UserError, match=message):
            predict_videos(model, given, "street", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_without_the_package_one_line_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r'a.mp4: videos need PyAV; pip install "manyseg\[video\]"'):
        open_video(tmp_path / "a.mp4")


def test_an_input_is_never_overwritten(tmp_path, model):
    source = film(tmp_path / "out/overlays/a.mp4", [picture(8)])
    before = source.read_bytes()
    with pytest.raises(UserError, match="is an input and would be overwritten"):
        predict_videos(model, [source], "street", tmp_path / "out")
    assert source.read_bytes() == before
