import pytest
import torch
from torch import nn

from manyseg.errors import UserError
from manyseg.models import PixelEncoder
from manyseg.models.backbone import Backbone

VIT = "vit_tiny_patch16_224"


def trained(backbone):
    return {n for n, p in backbone.net.named_parameters() if p.requires_grad}


def test_the_last_layers_of_a_transformer_are_its_last_blocks_and_the_norm(small):
    found = trained(Backbone(VIT, trainable="last:2"))
    assert {n.split(".")[2] for n in found if "blocks" in n} == {"2", "3"}
    assert {n for n in found if "blocks" not in n} == {"vit.norm.weight", "vit.norm.bias"}


def test_the_last_layers_of_a_network_with_levels_are_its_last_blocks():
    assert {n.rsplit(".", 2)[0] for n in trained(Backbone("resnet18", trainable="last:2"))} == {
        "layer4.0", "layer4.0.downsample", "layer4.1"
    }  # fmt: skip
    assert trained(Backbone("tiny", trainable="last:1")) == {
        n for n, _ in Backbone("tiny").net.named_parameters() if n.startswith("stages.2")
    }


def test_nothing_of_a_frozen_trunk_changes_and_it_computes_no_gradient():
    pixels = PixelEncoder.build(backbone="resnet18", pretrained=False, trainable="none", channels=8).train()
    before = {k: v.clone() for k, v in pixels.backbone.net.state_dict().items()}
    optimiser = torch.optim.SGD(pixels.parameters(), lr=1.0, weight_decay=0.1)
    features = pixels(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    assert not any(level.requires_grad for level in features.levels)
    features.embedding.square().mean().backward()
    optimiser.step()
    assert all(torch.equal(v, before[k]) for k, v in pixels.backbone.net.state_dict().items())
    # The new layers on top do learn, and their norms count.
    assert pixels.neck.training
    assert any(p.grad is not None for p in pixels.neck.parameters())


def test_freezing_later_holds_statistics_too():
    backbone = Backbone("resnet18")
    backbone.freeze()
    backbone.train()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    backbone(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())


def test_frozen_batch_norms_keep_weights_and_statistics_and_the_rest_learns():
    backbone = Backbone("resnet18", frozen_batch_norm=True)
    norms = {n for n, m in backbone.net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert norms
    assert not {n.rsplit(".", 1)[0] for n in trained(backbone)} & norms
    before = backbone.net.bn1.running_mean.clone()
    sum(level.mean() for level in backbone.train()(torch.randn(2, 3, 64, 64))).backward()
    assert torch.equal(backbone.net.bn1.running_mean, before)
    assert backbone.net.conv1.weight.grad is not None


@pytest.mark.parametrize("name", [VIT, "beit_base_patch16_224", "vit_small_patch16_dinov3", "eva02_tiny_patch14_224"])
def test_lora_changes_nothing_at_first_and_then_learns_alone(small, name):
    torch.manual_seed(0)
    plain = Backbone(name, features="last").eval()
    torch.manual_seed(0)
    lora = Backbone(name, features="last", trainable="lora:2").eval()
    image = torch.randn(1, 3, 56, 56)
    torch.testing.assert_close(lora(image)[0], plain(image)[0])
    assert all(".parametrizations.weight.0." in n for n in trained(lora))
    lora.train()(image)[0].square().mean().backward()
    grads = {n: p.grad for n, p in lora.net.named_parameters() if p.requires_grad}
    assert all(g is not None for g in grads.values())
    # `up` is zero at first, so that `down` has no gradient yet.
    assert all(g.abs().sum() > 0 for n, g in grads.items() if n.endswith(".up"))
    assert not any("parametrizations.weight.0" in n for n in lora.trunk_parameters())
    assert any("original" in n for n in lora.trunk_parameters())


def test_lora_is_of_the_rank_that_is_asked_for(small):
    for text, rank in (("lora", 8), ("lora:3", 3)):
        sizes = [p.shape[0] for n, p in Backbone(VIT, trainable=text).net.named_parameters() if n.endswith(".down")]
        assert sizes == [rank] * 8


@pytest.mark.parametrize(
    ("name", "trainable", "message"),
    [
        ("resnet18", "lora", r"'resnet18' has no attention; give all, none or last:4"),
        (VIT, "last:9", r"model\.trainable is 'last:9', but 'vit_tiny_patch16_224' has 5 layers; give fewer"),
        (VIT, "some", r"model\.trainable is 'some'; give \"all\", \"none\", \"last:4\""),
        (VIT, "last:0", r"model\.trainable is 'last:0'; give"),
    ],
)
def test_what_cannot_be_is_an_error_that_says_what_can(small, name, trainable, message):
    with pytest.raises(UserError, match=message):
        PixelEncoder.build(backbone=name, pretrained=False, trainable=trainable)
