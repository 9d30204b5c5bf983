import pytest
import torch
from words import write_encoder

from manyseg.errors import UserError
from manyseg.models import text as module
from manyseg.models.prompt import Prompted
from manyseg.models.text import TextEncoder

NAMES = ["car", "traffic light", "road"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MANYSEG_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=["bert", "clip"])
def encoder(request, tmp_path):
    return write_encoder(tmp_path / request.param, ["car", "traffic", "light", "road"], kind=request.param)


def test_the_widths_are_known_without_the_weights(encoder, monkeypatch):
    vector = TextEncoder(encoder).encode(["car"]).shape[1]
    monkeypatch.setattr(module, "_load", lambda source: pytest.fail("the weights were read"))
    assert TextEncoder(encoder).widths == (16, vector)
    assert vector == (6 if "clip" in encoder else 16)


def test_a_prompt_of_a_words_own_vector_is_that_word(encoder):
    """The prompt stands before the name: with the vector of "traffic", "light" is read as "traffic light"."""
    plain = TextEncoder(encoder)
    tokenizer, model = plain._loaded
    layer = next(m for m in model.modules() if isinstance(m, torch.nn.Embedding))
    word = layer.weight[tokenizer.convert_tokens_to_ids("traffic")][None].detach()
    found = plain.with_prompt(["light"], word)
    tokens = tokenizer(["traffic light"], return_tensors="pt")
    if "clip" in encoder:
        expected = model(**{k: tokens[k] for k in ("input_ids", "attention_mask")}).text_embeds
    else:
        # The mean leaves the prompt's own token out.
        expected = model(**tokens).last_hidden_state[:, [0, 2, 3]].mean(1)
    torch.testing.assert_close(found, torch.nn.functional.normalize(expected, dim=1), atol=1e-5, rtol=0)


def test_padding_changes_no_prompted_vector(encoder):
    plain, prompt = TextEncoder(encoder), torch.randn(3, 16)
    together = plain.with_prompt(["car", "traffic light road car"], prompt)
    torch.testing.assert_close(together[:1], plain.with_prompt(["car"], prompt), atol=1e-5, rtol=0)


def test_a_gradient_reaches_the_prompt_and_the_adapter_and_not_the_encoder(encoder):
    net = Prompted(NAMES, 8, model=encoder, tokens=2)
    torch.autograd.backward(net().square().sum())
    assert net.prompt.grad.any()
    assert net.adapter.weight.grad.any()
    assert not any(p.requires_grad for p in net.encoder._loaded[1].parameters())
    assert all(p.grad is None for p in net.encoder._loaded[1].parameters())


def test_the_prompt_can_be_trained_though_the_encoder_was_first_used_to_infer(encoder):
    net = Prompted(NAMES, 8, model=encoder, tokens=2)
    net.encoder.encode(["car"])
    torch.autograd.backward(net().sum())


def test_a_name_too_long_for_the_encoder_is_named_with_its_length(encoder):
    with pytest.raises(UserError, match=r"'car car.*24 tokens, 32 with a prompt of 8.*reads 24"):
        TextEncoder(encoder).with_prompt([" ".join(["car"] * 22)], torch.zeros(8, 16))


def test_the_encoder_is_no_part_of_the_state(encoder):
    net = Prompted(NAMES, 8, model=encoder, tokens=2)
    net()
    width = net.vectors.shape[1]
    shapes = {k: tuple(v.shape) for k, v in net.state_dict().items()}
    assert shapes == {
        "prompt": (2, 16),
        "vectors": (3, width),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "adapter.weight": (8, width),
        "adapter.bias": (8,),
    }


@pytest.mark.parametrize("tokens", [0, 2])
def test_a_loaded_state_needs_no_encoder_for_the_texts_that_it_knows(encoder, tokens, monkeypatch):
    net = Prompted(NAMES, 8, model=encoder, tokens=tokens).eval()
    expected = net()
    fresh = Prompted(NAMES, 8, model=encoder, tokens=tokens).eval()
    fresh.load_state_dict(net.state_dict())
    for way in ("encode", "with_prompt"):
        monkeypatch.setattr(TextEncoder, way, lambda *_: pytest.fail("the encoder was asked"))
    assert torch.equal(fresh(), expected)
    torch.testing.assert_close(fresh.encode(["road", "car"]), expected[[2, 0]])
    with pytest.raises(BaseException, match="was asked"):
        fresh.encode(["light"])


def test_a_state_can_be_loaded_where_there_is_no_encoder_at_all(encoder):
    net = Prompted(NAMES, 8, model=encoder, tokens=2).eval()
    expected = net()
    bare = Prompted(NAMES, 8, model="./no/such/folder", tokens=2).eval()
    bare.load_state_dict(net.state_dict())
    assert torch.equal(bare(), expected)
    with pytest.raises(UserError, match="no such folder"):
        bare.encode(["light"])


def test_the_saved_vectors_are_those_of_the_prompt_as_it_is_when_saved(encoder):
    net = Prompted(NAMES, 8, model=encoder, tokens=2)
    net()
    with torch.no_grad():
        net.prompt.add_(1.0)
    state = net.state_dict()
    torch.testing.assert_close(state["vectors"], net.encoder.with_prompt(NAMES, net.prompt).detach())


def test_after_a_training_step_texts_are_encoded_anew_and_then_kept(encoder, monkeypatch):
    net = Prompted(NAMES, 8, model=encoder, tokens=2)
    calls = []
    original = TextEncoder.with_prompt
    monkeypatch.setattr(TextEncoder, "with_prompt", lambda self, t, p: calls.append(len(t)) or original(self, t, p))
    net()
    net.eval()
    first = net()
    assert torch.equal(net(), first)
    net.encode(["light", "car", "light"])
    net.encode(["light"])
    assert calls == [3, 3, 1]


def test_words_that_are_no_fixed_texts_stand_in_the_same_space(encoder):
    net = Prompted(NAMES, 8, model=encoder, tokens=2).eval()
    other = Prompted(["light", "car"], 8, model=encoder, tokens=2).eval()
    with torch.no_grad():
        other.prompt.copy_(net.prompt)
    other.adapter, other.norm = net.adapter, net.norm
    torch.testing.assert_close(net.encode(["light"])[0], other()[0], atol=1e-5, rtol=0)
