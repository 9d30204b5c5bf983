import pytest
import timm
import torch
from advice import follow
from torch.nn import functional as F

from manyseg.errors import UserError
from manyseg.labels import LabelSpace
from manyseg.methods.lmseg import LMSeg
from manyseg.models import Features, PixelEncoder
from manyseg.models.deformable import DeformablePyramid, _Layer
from manyseg.models.mask2former import MaskedDecoder, _attention_mask

SWIN = {"embed_dim": 8, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 2, 2), "window_size": 4}


def decoder(guidance="none", **sizes):
    torch.manual_seed(0)
    options = {"queries": 4, "blocks": 2, "heads": 2, "guidance": guidance, **sizes}
    return MaskedDecoder([3, 8, 5], 32, 8, 6, **options)


def features():
    g = torch.Generator().manual_seed(0)
    levels = [torch.randn(2, c, 8 // 2**i, 12 // 2**i, generator=g) for i, c in enumerate((3, 8, 5))]
    return Features(tuple(levels), torch.randn(2, 6, 16, 24, generator=g))


WORDS = torch.randn(3, 8)


@pytest.fixture
def published():
    """A network of transformers with random weights, and a Swin of timm of the same sizes."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    torch.manual_seed(0)
    swin = SwinConfig(
        embed_dim=8, depths=[2, 1, 1, 1], num_heads=[1, 2, 2, 2], window_size=4, image_size=224,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=swin, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=128,
        dim_feedforward=256, decoder_layers=5, num_attention_heads=8, num_queries=7, num_labels=3,
    )  # fmt: skip
    model = Mask2FormerForUniversalSegmentation(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn_like(p)
    return model


@pytest.mark.parametrize("size", [(224, 224), (128, 288)])
def test_masks_and_queries_are_those_of_transformers_with_its_weights(published, tmp_path, monkeypatch, size):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **k: create(name, **{**SWIN, **k}))
    published.save_pretrained(tmp_path)
    encoder = PixelEncoder.build(
        backbone="swin_tiny_patch4_window7_224", neck="deformable", channels=32, level_norm=True, init=str(tmp_path)
    ).eval()
    net = MaskedDecoder(encoder.level_channels, 32, 32, 32, queries=7, blocks=4, heads=8, guidance="none").eval()
    given = encoder.for_decoder
    net.load_state_dict({k: v for k, v in given.items() if not k.startswith("classes.")})
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        wanted = published(image)
        found = net(encoder(image * encoder.std + encoder.mean))
        masks = torch.einsum("bqc,bchw->bqhw", found.masks[-1], found.embedding[-1])
        torch.testing.assert_close(masks, wanted.masks_queries_logits, rtol=1e-3, atol=1e-3)
        classes = F.linear(found.queries[-1], given["classes.weight"], given["classes.bias"])
        torch.testing.assert_close(classes, wanted.class_queries_logits, rtol=1e-3, atol=1e-3)


def test_a_network_that_does_not_fit_says_what_to_set(published, tmp_path, monkeypatch):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **k: create(name, **{**SWIN, **k}))
    published.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"does not fit the neck: .*; set model\.neck = 'deformable'"):
        PixelEncoder.build(backbone="swin_tiny_patch4_window7_224", channels=32, init=str(tmp_path))


def test_a_published_network_fits_with_the_options_that_are_advised(published, tmp_path, monkeypatch):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **k: create(name, **{**SWIN, **k}))
    published.save_pretrained(tmp_path)

    def build(**options):
        return PixelEncoder.build(backbone="swin_tiny_patch4_window7_224", channels=32, init=str(tmp_path), **options)

    said = (
        "set model.neck = 'deformable', model.level_norm = true, and model.channels and model.features as the published"
    )
    follow(build, said, lambda: build(neck="deformable", level_norm=True))
    space = LabelSpace.of("a", ["road", "car", "sky"])

    def method(queries):
        encoder = build(neck="deformable", level_norm=True)
        options = {"classifier": "heads", "decoder": "mask2former", "attention_heads": 8, "blocks": 4}
        return LMSeg(encoder, (space,), queries=queries, **options)

    said = "set method.decoder, method.queries and method.blocks as the published network has them"
    follow(lambda: method(9), said, lambda: method(7))


@pytest.mark.parametrize("backbone", ["tiny", "resnet18"])
def test_the_deformable_neck_trains_every_parameter_on_any_image(backbone):
    encoder = PixelEncoder.build(backbone=backbone, pretrained=False, channels=16, neck="deformable")
    found = encoder(torch.randint(0, 256, (2, 3, 66, 95), dtype=torch.uint8))
    assert found.embedding.shape == (2, 16, 17, 24)
    assert [level.shape[1] for level in found.levels] == encoder.level_channels
    (found.embedding.square().mean() + sum(level.square().mean() for level in found.levels)).backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []


def test_attention_of_no_offset_reads_its_own_pixel_and_of_one_pixel_its_neighbour():
    layer = _Layer(2, 1)
    with torch.no_grad():
        for linear in (layer.value, layer.projection):
            linear.weight.copy_(torch.eye(2))
        layer.offsets.bias.zero_()
    x = torch.arange(12.0).view(1, 6, 2)
    centres = torch.tensor([[(i + 0.5) / 3, (j + 0.5) / 2] for j in range(2) for i in range(3)])
    torch.testing.assert_close(layer._attend(x, x, centres, [(2, 3)]), x)
    with torch.no_grad():
        layer.offsets.bias.view(-1, 2)[:, 0] = 1.0
    moved = layer._attend(x, x, centres, [(2, 3)])
    torch.testing.assert_close(moved[:, [0, 1, 3, 4]], x[:, [1, 2, 4, 5]])
    # Outside of the level there is nothing.
    torch.testing.assert_close(moved[:, [2, 5]], torch.zeros(1, 2, 2))


def test_one_level_alone_is_no_pyramid():
    with pytest.raises(UserError, match=r"model\.neck is 'deformable', which needs several levels"):
        DeformablePyramid([8], 16)


def test_training_sees_the_start_and_every_block_and_inference_the_last():
    net = decoder()
    every = net(features())
    assert every.queries.shape == (3, 2, 4, 8)
    assert every.masks.shape == (3, 2, 4, 6)
    last = net.eval()(features())
    torch.testing.assert_close(last.queries, every.queries[-1:])


def test_every_parameter_learns():
    net = decoder("image_first", blocks=3)
    found = net(features(), WORDS)
    (found.masks.square().mean() + found.queries.square().mean()).backward()
    assert [n for n, p in net.named_parameters() if p.grad is None] == []


def test_a_query_sees_its_mask_or_all_where_it_has_none():
    masks, embedding = torch.tensor([[[1.0], [-1.0]]]), torch.ones(1, 1, 4, 4)
    embedding[..., 2:] = -1
    mask = _attention_mask(masks, embedding, (1, 2))
    assert mask[0, 0].tolist() == [[True, False], [False, True]]
    assert _attention_mask(-masks[:, :1], torch.ones(1, 1, 4, 4), (1, 2))[0, 0].tolist() == [[True, True]]


def test_masks_of_a_padded_image_lie_on_its_levels():
    levels = (torch.zeros(1, 3, 32, 24), torch.zeros(1, 8, 16, 12), torch.zeros(1, 5, 8, 6))
    embedding = torch.arange(57.0)[:, None].expand(1, 6, 57, 48)
    whole = decoder()._whole(Features(levels, embedding))
    assert whole.shape == (1, 6, 64, 48)
    assert torch.equal(whole[:, :, :57], embedding)
    assert whole[0, 0, 57:, 0].unique().tolist() == [56.0]


@pytest.mark.parametrize(("guidance", "sees"), [("image_first", True), ("text_first", True), ("none", False)])
def test_words_guide_only_where_they_are_asked_to(guidance, sees):
    net = decoder(guidance).eval()
    assert torch.equal(net(features(), WORDS).queries, net(features(), WORDS + 1).queries) != sees
    assert any("text" in name for name, _ in net.named_parameters()) == sees


def test_images_do_not_see_each_other():
    net, both = decoder().eval(), features()
    second = Features(tuple(level[1:] for level in both.levels), both.embedding[1:])
    torch.testing.assert_close(net(both).masks[:, 1:], net(second).masks)
