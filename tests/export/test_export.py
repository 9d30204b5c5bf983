"""Exported files give what the network gives, and run without the package."""

import json
import logging
import subprocess
import sys
from importlib import import_module

import jaxtyping
import numpy as np
import pytest
import torch
from advice import follow
from PIL import Image
from torch import nn

from manyseg import testing
from manyseg.errors import UserError
from manyseg.export.files import OLDEST, agreement, check_request, write_onnx, write_torch
from manyseg.export.graph import ExportGraph, _constant_padding
from manyseg.export.predictor import Predictor, fit
from manyseg.inference.options import TestOptions
from manyseg.labels import LabelSpace
from manyseg.methods import METHODS, find_method
from manyseg.models import PixelEncoder
from manyseg.prediction.model import Model
from manyseg.runs.trained import export_run

pytestmark = pytest.mark.skipif(torch.__version__ < OLDEST, reason=f"exports need torch {OLDEST}")

# pytest collects all logs, and then torch writes a record with a stack for every symbol that it traces.
logging.getLogger("torch.__trace").setLevel(logging.ERROR)

SIZES = ((32, 64), (112, 48), (64, 96))
WORDS = LabelSpace.of("road, sky, bicycle", ["road", "sky", "bicycle"])


def _photo(size, seed=0):
    """Blocks of the toy world, larger than the tracing example in one direction and smaller in the other."""
    image = testing.toy_batches(seed, images=1, size=size)[0].image[0]
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


class _Patches(nn.Module):
    """A trunk of one layer: most of the time of an export goes into the layers, and these tests are of what follows."""

    channels, strides = (16,), (4,)

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 4, stride=4)

    def forward(self, image):
        return [self.first(image).relu()]


def _trained(name, neck=None):
    """Train a little, with a trunk of one layer, or with the tiny one below a neck.

    "fpn" pools over the whole image; the file that most tests share has it.
    """
    torch.manual_seed(0)
    table = {"taxonomy": testing.toy_taxonomy()}
    options = {"manual": table, "unified_nodes": {"init": testing.toy_taxonomy()}, "autouniseg": {"init": "names"},
               "lmseg": {"queries": 8, "blocks": 1, "prompt_tokens": 0}}.get(name, {})  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        if neck is None:
            patch.setattr("manyseg.models.backbone.TinyNet", _Patches)
        encoder = PixelEncoder.build(backbone="tiny", pretrained=False, channels=32, neck=neck or "linear")
    method = find_method(name)(encoder, testing.toy_spaces(), **options)
    testing.train(method, 3)
    return method.eval()


def _spaces(method):
    """Two label spaces, neither the first of the training's: what is asked of one is not asked of all."""
    return [method.spaces[1], method.taxonomy.unified]


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 2, 1), (5, 2, 1), (3, 1, 2), (1, 2, 1), (7, 4, 1)])
def test_same_padding_is_constant_where_sides_are_multiples_of_the_stride(kernel, stride, dilation):
    layers = import_module("timm.layers.conv2d_same")
    theirs, given = layers.pad_same, ((kernel, kernel), (stride, stride), (dilation, dilation))
    x = torch.rand(1, 2, 8 * stride, 5 * stride)
    with _constant_padding():
        assert layers.pad_same is not theirs
        assert torch.equal(layers.pad_same(x, *given, value=-1.0), theirs(x, *given, value=-1.0))
    assert layers.pad_same is theirs


@pytest.fixture(scope="module", autouse=True)
def _traced():
    """Arrays are not checked here: a check of a shape would make it a constant of the traced network."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def multihead():
    return _trained("multihead", "fpn")


@pytest.fixture(scope="module")
def graph(multihead):
    """Traced once, whatever number of tests write it."""
    return ExportGraph(multihead, _spaces(multihead))


@pytest.fixture(scope="module")
def exported(graph, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    write_onnx(graph, path, TestOptions(max_side=80))
    return path


@pytest.fixture(scope="module")
def lmseg():
    return _trained("lmseg")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_the_same_label_maps_as_the_network(name, tmp_path):
    method = _trained(name)
    path = tmp_path / "model.onnx"
    write_onnx(ExportGraph(method, _spaces(method)), path, TestOptions())
    predictor, model = Predictor(path), Model(method, method.spaces, TestOptions())
    for size in SIZES:
        photo = _photo(size)
        for space in _spaces(method):
            expected = model.predict(photo, space).labels
            assert (predictor.predict(photo, space.name) == expected).mean() > 0.999
            assert expected.shape == size


def test_the_file_says_what_it_takes_and_what_its_answers_mean(multihead, exported):
    predictor = Predictor(exported)
    assert predictor.about["input"] == {
        "layout": "BHWC, uint8, RGB",
        "multiple": 16,
        "short_side": None,
        "max_side": 80,
    }
    assert predictor.about["taxonomy"] == multihead.taxonomy.to_tsv()
    assert list(predictor.spaces) == [s.name for s in _spaces(multihead)]
    for space in _spaces(multihead):
        assert predictor.spaces[space.name].names == space.names
        assert (predictor.spaces[space.name].colors == space.colors).all()
    inputs = predictor.session.get_inputs()
    assert [(i.name, i.type, i.shape[3]) for i in inputs] == [("image", "tensor(uint8)", 3)]


def test_several_images_are_answered_at_once(exported):
    photos = np.stack([_photo((64, 48), seed) for seed in range(3)])
    predictor = Predictor(exported)
    found = predictor.session.run(["label_map/coarse"], {"image": photos})[0]
    assert found.dtype == np.int32
    for one, photo in zip(found, photos, strict=True):
        assert (one == predictor.predict(photo, "coarse")).all()


@pytest.mark.parametrize(
    ("size", "seen"), [((160, 96), (80, 48)), ((33, 65), (32, 64)), ((5, 72), (32, 64)), ((1, 300), (32, 80))]
)
def test_an_image_of_another_size_is_resized_and_its_label_map_has_its_own_size(multihead, exported, size, seen):
    photo, predictor = _photo(size), Predictor(exported)
    small = fit(photo, 16, 80)
    assert small.shape == (*seen, 3)
    found = predictor.predict(photo, "coarse")
    assert found.shape == size
    middle = [(2 * np.arange(n) + 1) * m // (2 * n) for n, m in zip(size, seen, strict=True)]
    assert (found == predictor.predict(small, "coarse")[np.ix_(*middle)]).mean() > 0.999


def test_probabilities_can_be_asked_for(tmp_path):
    method, photo = _trained("multihead"), _photo((32, 64))
    space, path = method.spaces[0], tmp_path / "model.onnx"
    graph = ExportGraph(method, [space], "probabilities")
    write_onnx(graph, path, TestOptions())
    predictor = Predictor(path)
    found = predictor.session.run(None, {"image": photo[None]})[0]
    assert found.shape == (1, len(space), 32, 64)
    np.testing.assert_allclose(found, graph(torch.from_numpy(photo[None]))[0].detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    assert agreement(graph, path, [photo])["probabilities/fine"] > 0.999
    assert (predictor.predict(photo) == found[0].argmax(0)).all()


def test_label_maps_are_adjusted_as_those_of_the_run(multihead):
    spaces, image = _spaces(multihead)[:2], torch.from_numpy(_photo((32, 64))[None])
    plain = ExportGraph(multihead, spaces, "scores")(image)
    adjusted = ExportGraph(multihead, spaces, "scores", logit_adjustment=0.3)(image)
    for space, before, after in zip(spaces, plain, adjusted, strict=True):
        shares = multihead.log_shares(space)
        assert (shares < 0).any()
        torch.testing.assert_close(after, before - 0.3 * shares[:, None, None])


def test_the_answers_follow_from_the_scores_of_the_network(multihead):
    space, image = multihead.spaces[0], torch.from_numpy(_photo((32, 64))[None])
    scores = multihead.predict(multihead.pixel_encoder(image.permute(0, 3, 1, 2)), space)
    native = torch.nn.functional.interpolate(scores, (32, 64), mode="bilinear")
    expected = {"scores": scores, "probabilities": native.softmax(1), "label_map": native.argmax(1).int()}
    for output, value in expected.items():
        graph = ExportGraph(multihead, [space], output)
        assert graph.names == [f"{output}/fine"]
        assert torch.equal(graph(image)[0], value)


def test_words_are_an_input_where_the_model_reads_words(lmseg, tmp_path):
    path = tmp_path / "words.onnx"
    graph = ExportGraph(lmseg, [WORDS], words=True)
    write_onnx(graph, path, TestOptions())
    with pytest.raises(ValueError, match="give a file of word vectors"):
        Predictor(path)
    model, photo = Model(lmseg, lmseg.spaces, TestOptions()), _photo((48, 64))
    first = Predictor(path, tmp_path / "words.words.npz")
    assert first.spaces["words"].names == WORDS.names
    assert (first.predict(photo) == model.predict(photo, WORDS).labels).mean() > 0.999
    other = LabelSpace.of("other", ["truck", "sky", "asphalt", "grass", "dog"])
    np.savez(tmp_path / "o.npz", names=np.array(other.names), vectors=lmseg.word_vectors(other).numpy())
    second = Predictor(path, tmp_path / "o.npz")
    assert (second.predict(photo) == model.predict(photo, other).labels).mean() > 0.999
    assert len({tuple(c) for c in second.spaces["words"].colors.tolist()}) == 5


def test_the_network_with_the_other_neck_gives_the_same_label_maps_too(multihead, graph, tmp_path):
    write_onnx(graph, tmp_path / "model.onnx", TestOptions())
    predictor, model = Predictor(tmp_path / "model.onnx"), Model(multihead, multihead.spaces, TestOptions())
    for size in SIZES:
        for space in _spaces(multihead):
            photo = _photo(size)
            assert (predictor.predict(photo, space.name) == model.predict(photo, space).labels).mean() > 0.999


def test_half_and_eight_bit_files_are_smaller_and_nearly_agree(graph, exported, tmp_path):
    photos = [_photo((64, 96), seed) for seed in range(4)]
    write_onnx(graph, tmp_path / "half.onnx", TestOptions(), precision="fp16")
    write_onnx(graph, tmp_path / "int8.onnx", TestOptions(), precision="int8", images=photos)
    for name in ("half.onnx", "int8.onnx"):
        assert min(agreement(graph, tmp_path / name, photos).values()) > 0.9


def test_a_package_of_torch_export_runs_and_holds_its_description(graph, tmp_path):
    photo = _photo((112, 48))
    write_torch(graph, tmp_path / "model.pt2", TestOptions())
    held = {"manyseg.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=held).module()
    image = torch.from_numpy(photo[None])
    for found, expected in zip(program(image), graph(image), strict=True):
        assert (found == expected).all()
    assert json.loads(held["manyseg.json"])["spaces"]["label_map/coarse"]["classes"][0]["name"] == "vehicle"


def test_the_predictor_is_one_short_file_that_runs_without_the_package(exported, tmp_path):
    program = exported.with_name("onnx_predictor.py")
    lines = program.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 200
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    for name in ("a.png", "a.jpg", "deep/b.png"):
        Image.fromarray(_photo((48, 64))).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "broken.png").write_bytes(b"no image")
    barred = "import sys; sys.modules['manyseg'] = sys.modules['torch'] = None; sys.argv = sys.argv[1:];"
    barred += "import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-c", barred, str(program), str(exported), *arguments],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip

    done = run("photos", "--labels", "coarse", "--out", "out")
    assert done.returncode == 1
    assert "broken.png: cannot be read" in done.stderr
    written = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")}
    assert written == {f"{k}.{e}" for k, e in [(f"masks/{n}", "png") for n in ("a", "a.png", "deep/b")]} | {
        f"overlays/{n}.jpg" for n in ("a", "a.png", "deep/b")
    }
    with Image.open(tmp_path / "out" / "masks" / "deep" / "b.png") as mask:
        assert (np.asarray(mask) == Predictor(exported).predict(_photo((48, 64)), "coarse")).all()
    wrong = run("photos", "--labels", "coarser")
    assert wrong.stderr.startswith("error: the model has no label space 'coarser'; choose one of: coarse, unified")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("model.tflite", {}, r"model\.tflite: give a name that ends in \.onnx, or in \.pt2"),
        ("model", {}, r"model: give a name that ends in \.onnx"),
        ("model.pt2", {"precision": "fp16"}, "a precision and images are for ONNX files"),
        ("model.pt2", {"images": ["photos"]}, "a precision and images are for ONNX files"),
        ("model.onnx", {"precision": "int8"}, "int8 takes its ranges from images; name some with --images"),
        ("file/model.onnx", {}, "file/model.onnx: cannot be written"),
    ],
)
def test_what_cannot_be_written_is_said_before_a_model_is_loaded(name, options, message, tmp_path):
    (tmp_path / "file").touch()
    # The run is not even looked for.
    with pytest.raises(UserError, match=message):
        export_run(tmp_path / "run", tmp_path / name, **options)


def test_a_missing_package_is_said_before_a_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("manyseg.export.files.NEEDED", ("onnx", "no_such_package"))
    with pytest.raises(UserError, match=r'model\.onnx: ONNX files need no_such_package; .*"manyseg\[export\]"'):
        export_run(tmp_path / "run", tmp_path / "model.onnx")


def test_what_cannot_be_exported_is_refused_in_one_line(multihead, lmseg):
    with pytest.raises(UserError, match="reads no words"):
        ExportGraph(multihead, [WORDS], words=True)
    with pytest.raises(UserError, match="one output, but 2 label spaces"):
        ExportGraph(lmseg, [WORDS, WORDS], words=True)
    htss = _trained("htss")
    with pytest.raises(UserError, match="export 'unified'"):
        ExportGraph(htss, [htss.hierarchy.space])


@pytest.mark.parametrize(
    ("wrong", "said", "right"),
    [
        (("a.txt", "fp32", ()), "give a name that ends in .onnx, or in .pt2", ("a.onnx", "fp32", ())),
        (("a.txt", "fp32", ()), "give a name that ends in .onnx, or in .pt2", ("a.pt2", "fp32", ())),
        (("a.pt2", "fp16", ()), "end the name in .onnx, or leave them out", ("a.onnx", "fp16", ())),
        (("a.pt2", "fp16", ()), "end the name in .onnx, or leave them out", ("a.pt2", "fp32", ())),
        (("a.onnx", "int8", ()), "name some with --images", ("a.onnx", "int8", ("b.png",))),
        (("file/a.onnx", "fp32", ()), "a part of the path is a file; choose another place", ("a.onnx", "fp32", ())),
    ],
)
def test_a_file_is_asked_for_as_advised(tmp_path, wrong, said, right):
    (tmp_path / "file").touch()
    ask = lambda name, *rest: check_request(tmp_path / name, *rest)  # noqa: E731
    follow(lambda: ask(*wrong), said, lambda: ask(*right))


def test_a_package_is_installed_as_advised(tmp_path, monkeypatch):
    ask = lambda: check_request(tmp_path / "a.onnx", "fp32", ())  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr("manyseg.export.files.NEEDED", ("onnx", "no_such_package"))
        follow(ask, r'install them by pip install "manyseg\[export\]"', lambda: [patch.undo(), ask()])


def test_a_newer_torch_exports_as_advised(tmp_path, monkeypatch):
    ask = lambda: check_request(tmp_path / "a.pt2", "fp32", ())  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr("manyseg.export.files.OLDEST", "9.0")
        with pytest.raises(UserError, match=r"exports need torch 9.0 or newer, and this is .*; upgrade torch"):
            ask()
        patch.setattr("manyseg.export.files.OLDEST", "1.0")
        ask()


def test_label_spaces_are_exported_as_advised(multihead, lmseg):
    htss = _trained("htss")
    for method, spaces, words, said, right in (
        (multihead, [WORDS], True, "export the label spaces that it knows", multihead.spaces),
        (lmseg, [WORDS, WORDS], True, "give one", [WORDS]),
        (htss, [htss.hierarchy.space], False, "export 'unified'", [htss.taxonomy.unified]),
    ):
        follow(
            lambda m=method, s=spaces, w=words: ExportGraph(m, s, words=w),
            said,
            lambda m=method, s=right: ExportGraph(m, s, words=m is lmseg),
        )


def test_an_onnx_file_of_something_else_is_named(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "x.onnx")
    with pytest.raises(ValueError, match="was not exported by manyseg"):
        Predictor(tmp_path / "x.onnx")
