import math

import pytest
import torch
from small_transformers import FAMILIES

from manyseg.errors import UserError
from manyseg.models import PixelEncoder
from manyseg.models.backbone import Backbone
from manyseg.models.plain_vit import SimplePyramid, at_stride_4


@pytest.mark.parametrize("features", ["pyramid", "layers", "last"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_every_kind_of_map_of_any_image_and_a_gradient_to_every_parameter(small, name, features):
    patch, (height, width) = FAMILIES[name], (95, 130)
    nearest = {8: 8, 14: 16, 16: 16, 32: 32}[patch]
    strides = [s * patch / nearest for s in (4, 8, 16, 32)] if features == "pyramid" else [patch]
    pixels = PixelEncoder.build(backbone=name, pretrained=False, features=features, channels=8, neck="linear")
    assert pixels.backbone.strides == (strides * 4 if features == "layers" else strides)
    unit = max(strides)
    found = pixels(torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8))
    for level, stride, channels in zip(found.levels, pixels.backbone.strides, pixels.backbone.channels, strict=True):
        assert level.shape == (2, channels, *(unit * math.ceil(side / unit) / stride for side in (height, width)))
    assert found.embedding.shape == (2, 8, 24, 33)
    found.embedding.square().mean().backward()
    assert [n for n, p in pixels.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2", "beit_base_patch16_224", "eva02_tiny_patch14_224"])
def test_at_the_published_size_the_last_map_is_what_timm_gives(small, name):
    torch.manual_seed(0)
    model = small(name).eval()
    backbone = Backbone(name, features="last").eval()
    backbone.net.vit.load_state_dict(model.state_dict(), strict=False)
    size = model.pretrained_cfg["input_size"][-1]
    image = torch.randn(1, 3, size, size)
    with torch.no_grad():
        tokens = model.forward_features(image)[:, model.num_prefix_tokens :]
        (level,) = backbone(image)
    # BEiT's own final norm comes after pooling, and is no part of its maps.
    torch.testing.assert_close(level.flatten(2).transpose(1, 2), tokens)


def test_relative_positions_of_another_size_are_resampled_between_the_published_ones(small):
    backbone = Backbone("beit_base_patch16_224", features="last").eval()
    attention = backbone.net.vit.blocks[0].attn
    # A bias that falls linearly with the distance across; resampled it does so too, in smaller steps.
    across = torch.arange(27.0).expand(27, 27).flatten() - 13
    with torch.no_grad():
        attention.relative_position_bias_table[:-3] = across[:, None]
    backbone(torch.zeros(1, 3, 224, 224))
    assert attention._get_rel_pos_bias()[0, 0, 1, 1:15].tolist() == [-float(i) for i in range(14)]
    backbone(torch.zeros(1, 3, 448, 448))
    steps = attention._get_rel_pos_bias()[0, 0, 1, 1:20].diff()
    torch.testing.assert_close(steps, torch.full_like(steps, -27 / 55))


def test_images_of_one_batch_do_not_see_each_other_and_registers_see_all(small):
    backbone = Backbone("vit_small_patch14_reg4_dinov2", features="last").eval()
    image = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        torch.testing.assert_close(backbone(image)[0][1:], backbone(image[1:])[0], atol=1e-5, rtol=1e-4)


def test_layers_are_the_last_four_and_last_is_the_last_of_them(small):
    image = torch.randn(1, 3, 64, 64)
    four, one = Backbone("vit_tiny_patch16_224", features="layers"), Backbone("vit_tiny_patch16_224", features="last")
    one.load_state_dict(four.state_dict())
    levels = four.eval()(image)
    assert len(levels) == 4
    assert torch.equal(levels[-1], one.eval()(image)[0])
    assert not torch.allclose(levels[-1], levels[-2])


def test_the_pyramid_doubles_and_halves_the_map_and_its_channels():
    pyramid = SimplePyramid(16, 14)
    assert pyramid.strides == [3.5, 7, 14, 28]
    levels = pyramid([torch.randn(1, 16, 4, 6)])
    assert [tuple(level.shape[1:]) for level in levels] == [(4, 16, 24), (8, 8, 12), (16, 4, 6), (16, 2, 3)]


@pytest.mark.parametrize("stride", [3.5, 14, 16])
def test_resampling_keeps_every_pixel_at_its_own_place(stride):
    height, width = 61, 130
    cells = [math.ceil(side / stride) for side in (height, width)]
    # A map that holds the column, in pixels, of every cell's centre.
    x = ((torch.arange(cells[1]) + 0.5) * stride).expand(1, 1, *cells)
    found = at_stride_4(x, stride, (height, width))
    assert found.shape == (1, 1, 16, 33)
    centres = (torch.arange(33) + 0.5) * 4
    inner = (centres > stride / 2) & (centres < (cells[1] - 0.5) * stride)
    torch.testing.assert_close(found[0, 0, 8, inner], centres[inner])


def test_maps_at_stride_4_stay_as_they_are():
    x = torch.randn(1, 2, 5, 7)
    assert torch.equal(at_stride_4(x, 4, (20, 28)), x)


def test_networks_with_levels_of_their_own_have_no_layers_but_a_last_level():
    with pytest.raises(UserError, match=r"model\.features is 'layers', but 'resnet18' has levels of several strides"):
        Backbone("resnet18", features="layers")
    assert Backbone("resnet18", features="last").strides == [32]


def test_dinov3_convnext_has_levels_of_its_own():
    assert Backbone("convnext_tiny.dinov3_lvd1689m").strides == [4, 8, 16, 32]


def test_a_transformer_that_an_older_timm_cannot_cut_is_refused_in_words(small, monkeypatch):
    monkeypatch.delattr("timm.models.vision_transformer.VisionTransformer.prune_intermediate_layers")
    with pytest.raises(UserError, match=r"'vit_tiny_patch16_224' of timm 1\..* gives no feature levels; take a newer"):
        Backbone("vit_tiny_patch16_224", features="last")


def test_drop_path_rises_to_its_rate_and_what_has_none_says_so(small):
    blocks = Backbone("vit_tiny_patch16_224", drop_path=0.3).net.vit.blocks
    assert [getattr(b.drop_path1, "drop_prob", 0.0) for b in blocks] == pytest.approx([0, 0.1, 0.2, 0.3])
    with pytest.raises(UserError, match=r"model\.drop_path: timm's 'hrnet_w18_small' has no paths to drop"):
        Backbone("hrnet_w18_small", drop_path=0.1)


def test_checkpointing_changes_no_gradient(small):
    image, gradients = torch.randn(1, 3, 64, 64), []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        backbone = Backbone("vit_tiny_patch16_224", features="last", checkpointing=checkpointing)
        assert backbone.net.vit.grad_checkpointing == checkpointing
        backbone(image)[0].square().mean().backward()
        gradients.append([p.grad for p in backbone.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(UserError, match=r"model\.checkpointing: timm's 'hrnet_w18_small' cannot compute"):
        Backbone("hrnet_w18_small", checkpointing=True)
