import pytest
import torch
from advice import follow
from safetensors.torch import save_file
from torch.nn import functional as F

from manyseg.errors import UserError
from manyseg.models import PixelEncoder
from manyseg.models.eomt import EncoderQueries

VIT = "vit_small_patch14_reg4_dinov2"


def build(name=VIT, queries=5, blocks=2, guidance="none", **model):
    torch.manual_seed(0)
    encoder = PixelEncoder.build(backbone=name, pretrained=False, **model)
    decoder = EncoderQueries(encoder.give_tokens(), queries=queries, blocks=blocks, heads=4, guidance=guidance)
    return encoder, decoder


def masks(decoded):
    return torch.einsum("lbqc,lbchw->lbqhw", decoded.masks, decoded.embedding)


@pytest.fixture
def published():
    """A network of transformers with random weights."""
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "EomtConfig"):
        pytest.skip("this release of transformers has no EoMT")
    torch.manual_seed(0)
    config = transformers.EomtConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=64, patch_size=16, num_blocks=2,
        num_queries=5, num_labels=3, attn_implementation="eager",
    )  # fmt: skip
    model = transformers.EomtForUniversalSegmentation(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.02 * torch.randn_like(p)
    return model


@pytest.mark.parametrize("probabilities", [(1.0, 1.0), (0.0, 0.0), (0.0, 0.6), (0.3, 1.0)])
def test_masks_and_queries_are_those_of_transformers_with_its_weights(
    small, published, tmp_path, monkeypatch, probabilities
):
    published.attn_mask_probs.copy_(torch.tensor(probabilities))
    save_file(published.state_dict(), tmp_path / "model.safetensors")
    encoder, decoder = build(patch_size=16, image_size=64, init=str(tmp_path))
    given = {k: v for k, v in encoder.for_decoder.items() if not k.startswith("classes.")}
    decoder.load_state_dict(given)
    encoder.eval(), decoder.eval()
    image = torch.randn(2, 3, 64, 64)
    # Theirs draws the masked queries for every image, where a probability is neither 0 nor 1; it is given our draws.
    drawn = iter([row for row, p in zip(decoder.draws, probabilities, strict=True) if 0 < p < 1])
    monkeypatch.setattr(torch, "rand", lambda *size, device: next(drawn).expand(size))
    with torch.no_grad():
        wanted = published(image)
        found = decoder(encoder(image * encoder.std + encoder.mean))
        torch.testing.assert_close(masks(found)[-1], wanted.masks_queries_logits, rtol=1e-4, atol=1e-5)
        classes = F.linear(
            found.queries[-1], encoder.for_decoder["classes.weight"], encoder.for_decoder["classes.bias"]
        )
        torch.testing.assert_close(classes, wanted.class_queries_logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        VIT,
        "vit_small_patch16_dinov3",
        "vit_base_patch16_siglip_224",
        "eva02_tiny_patch14_224",
        "deit3_small_patch16_224",
    ],
)
@pytest.mark.parametrize("size", [(64, 96), (61, 90)])
def test_every_family_trains_every_parameter_and_gives_masks_at_stride_4(small, name, size):
    encoder, decoder = build(name, guidance="image_first")
    found = decoder(encoder(torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)), torch.randn(3, 32))
    assert found.queries.shape == (3, 2, 5, 32)
    assert masks(found).shape == (3, 2, 5, -(-size[0] // 4), -(-size[1] // 4))
    (masks(found).square().mean() + found.queries.square().mean()).backward()
    without = [n for m in (encoder, decoder) for n, p in m.named_parameters() if p.grad is None]
    assert without == []


def test_a_masked_query_sees_the_patches_of_its_mask_alone(small):
    _, decoder = build(blocks=1)
    found = (torch.zeros(1, 2, 2), torch.tensor([[[1.0, 0], [0, 0]]]), torch.zeros(1, 2, 4, 4))
    found[2][0, 0, :, :2], found[2][0, 0, :, 2:] = 1, -1
    # Two queries and one prefix token, then 2 x 2 patches: the first query has the left ones, the second has none.
    allowed = decoder._attention_mask(found, 7, 3, (2, 2), torch.ones(1, 2, dtype=torch.bool))[0, 0]
    assert allowed[0].tolist() == [True, True, True, True, False, True, False]
    assert allowed[1].tolist() == [True] * 3 + [False] * 4
    assert allowed[2:].all()
    allowed = decoder._attention_mask(found, 7, 3, (2, 2), torch.tensor([False, True]))[0, 0]
    assert allowed.all(1).tolist() == [True, False, True, True, True, True, True]


def test_an_evaluation_while_masks_are_annealed_is_a_function_of_the_image(small):
    """Some queries are masked, the same ones in any batch; the fewer, the less is left of the probability."""
    encoder, decoder = build(queries=40)
    encoder.eval(), decoder.eval()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    found = []
    with torch.no_grad():
        for done in (0, 0.375, 0.6, 1):
            decoder.anneal(done)
            both, alone = decoder(encoder(images)).queries[-1], decoder(encoder(images[1:])).queries[-1]
            torch.testing.assert_close(both[1:], alone)
            found.append(both)
    assert all(not torch.equal(a, b) for i, a in enumerate(found) for b in found[:i])
    masked = [(decoder.draws <= p).sum() for p in (1.0, 0.6, 0.3, 0.0)]
    assert masked == sorted(masked, reverse=True)


def test_masks_are_annealed_block_after_block(small):
    _, decoder = build(blocks=2)
    expected = {
        0: [1, 1],
        0.25: [1, 1],
        0.375: [0.5**0.9, 1],
        0.5: [0, 1],
        0.625: [0, 0.5**0.9],
        0.75: [0, 0],
        1: [0, 0],
    }
    for done, probabilities in expected.items():
        decoder.anneal(done)
        assert decoder.mask_probability.tolist() == pytest.approx(probabilities)
    other = build(blocks=2)[1]
    other.load_state_dict(decoder.state_dict())
    assert other._probability == [0, 0]


@pytest.mark.parametrize(("guidance", "sees"), [("image_first", True), ("text_first", True), ("none", False)])
def test_words_guide_only_where_they_are_asked_to(small, guidance, sees):
    encoder, decoder = build(guidance=guidance)
    encoder.eval(), decoder.eval()
    features, words = encoder(torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)), torch.randn(3, 32)
    same = torch.equal(decoder(features, words).queries, decoder(features, words + 1).queries)
    assert same != sees


@pytest.mark.parametrize(
    ("name", "blocks", "message"),
    [
        ("tiny", 2, r"inside a plain transformer, which 'tiny' is not; set model\.backbone"),
        ("beit_base_patch16_224", 2, r"blocks of model\.backbone take no attention mask; use a ViT"),
        (VIT, 4, r"method\.blocks is 4; with the decoder 'eomt' give 1 to 3"),
    ],
)
def test_what_cannot_be_is_refused(small, name, blocks, message):
    with pytest.raises(UserError, match=message):
        build(name, blocks=blocks)


def test_what_is_no_eomt_is_named(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.init: .* holds no EoMT and no Mask2Former of transformers"):
        PixelEncoder.build(backbone="tiny", init=str(tmp_path))
    with pytest.raises(UserError, match=r"model\.init: there is no file or folder nowhere"):
        PixelEncoder.build(backbone="tiny", init="nowhere")
    with pytest.raises(UserError, match=r"model\.init: cannot get 'nobody/nothing' from the hub \("):
        PixelEncoder.build(backbone="tiny", init="hf:nobody/nothing")


def test_an_eomt_of_another_trunk_is_exchanged_as_advised(small, published, tmp_path):
    tensors = {k: v.contiguous() for k, v in published.state_dict().items()}

    def begin(given):
        save_file(given, tmp_path / "model.safetensors")
        return build(patch_size=16, image_size=64, init=str(tmp_path))

    other = {k: v for k, v in tensors.items() if k != "embeddings.position_embeddings.weight"}
    said = "is no EoMT of DINOv2, the only one that is read; give one of these"
    follow(lambda: begin(other), said, lambda: begin(tensors))
