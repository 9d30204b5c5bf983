"""CLIP's text encoder from the files of OpenAI and open_clip: random weights in the true layouts."""

import gzip
import json
import warnings
from collections import OrderedDict

import pytest
import torch
from advice import follow
from safetensors.torch import save_file
from torch import nn

from manyseg.errors import UserError
from manyseg.models.clip_text import MERGES, load_clip
from manyseg.models.prompt import Prompted
from manyseg.models.text import TextEncoder

PAIRS = ["c a", "ca r</w>", "r o", "ro a", "roa d</w>", "s k", "sk y</w>", "t r", "tr e", "tre e</w>"]
VOCABULARY, WIDTH, JOINT, LENGTH = 2 * 256 + len(PAIRS) + 2, 128, 96, 12


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, WIDTH // 64)
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        layers = {"c_fc": nn.Linear(WIDTH, 4 * WIDTH), "gelu": QuickGELU(), "c_proj": nn.Linear(4 * WIDTH, WIDTH)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x):
        mask = torch.full((len(x), len(x)), -torch.inf).triu(1)
        seen = self.ln_1(x)
        x = x + self.attn(seen, seen, seen, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Clip(nn.Module):
    """The text half as its paper and files have it, and a layer of the image half."""

    def __init__(self):
        super().__init__()
        self.visual = nn.Module()
        self.visual.conv1 = nn.Conv2d(3, 2, 3)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.Sequential(Block(), Block())
        self.token_embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.positional_embedding = nn.Parameter(torch.randn(LENGTH, WIDTH))
        self.ln_final = nn.LayerNorm(WIDTH)
        self.text_projection = nn.Parameter(torch.randn(WIDTH, JOINT))

    def forward(self, ids):
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        x = self.ln_final(self.transformer.resblocks(x.transpose(0, 1)).transpose(0, 1))
        return x[torch.arange(len(ids)), ids.argmax(1)] @ self.text_projection


START, END, CAR, ROAD = VOCABULARY - 2, VOCABULARY - 1, 512 + 1, 512 + 4
"""Ids of the marks, and of the words that the second and the fifth pair complete."""


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Clip().eval()


@pytest.fixture
def archive(model, tmp_path):
    """A TorchScript archive with the pairs beside it, as OpenAI's download has them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of the format, which is deprecated.
        traced = torch.jit.trace(model, torch.tensor([[START, CAR, END]]), check_trace=False)
        torch.jit.save(traced, tmp_path / "RN50.pt")
    (tmp_path / MERGES).write_bytes(gzip.compress("\n".join(["a first line", *PAIRS, "m o"]).encode()))
    return tmp_path / "RN50.pt"


def test_a_text_has_the_vector_of_the_authors_model(model, archive, tmp_path):
    encoder = TextEncoder(str(archive), tmp_path / "cache")
    assert encoder.widths == (WIDTH, JOINT)
    found = torch.from_numpy(encoder.encode(["Car", "  road   car"]))
    with torch.no_grad():
        expected = model(torch.tensor([[START, CAR, END, 0], [START, ROAD, CAR, END]]))
    torch.testing.assert_close(found, nn.functional.normalize(expected, dim=1), rtol=1e-4, atol=1e-5)


def test_learned_vectors_stand_before_the_words_and_are_as_wide_as_tokens(model, archive):
    encoder, prompt = TextEncoder(str(archive)), torch.randn(2, WIDTH, requires_grad=True)
    found = encoder.with_prompt(["car"], prompt)
    with torch.no_grad():
        model.token_embedding.weight[:2] = prompt
        expected = nn.functional.normalize(model(torch.tensor([[START, 0, 1, CAR, END]])), dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    found.sum().backward()
    assert prompt.grad.abs().sum() > 0
    words = Prompted(["car", "road"], 8, model=str(archive), tokens=2)
    assert (words.prompt.shape, words.norm.normalized_shape, words().shape) == ((2, WIDTH), (JOINT,), (2, 8))


def test_a_folder_of_open_clip_says_its_heads_and_activation(model, archive, tmp_path):
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / MERGES).write_bytes((tmp_path / MERGES).read_bytes())
    state = {f"text.{k}": v.contiguous() for k, v in model.state_dict().items() if not k.startswith("visual.")}
    save_file(state, folder / "open_clip_model.safetensors")
    about = {"model_cfg": {"embed_dim": JOINT, "text_cfg": {"heads": 4}}}
    (folder / "open_clip_config.json").write_text(json.dumps(about))
    tokenizer, found = load_clip(folder)
    assert (found.config.num_attention_heads, found.config.hidden_act) == (4, "gelu")
    assert tokenizer(["sky"])["input_ids"] == [[START, 512 + 6, END]]
    torch.testing.assert_close(found.state_dict()["text_projection.weight"], model.text_projection.T)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / MERGES).unlink(), f"it holds no words; put OpenAI's {MERGES} beside it"),
        (lambda folder: (folder / MERGES).write_bytes(b"x"), "not OpenAI's file of byte pairs"),
        (lambda folder: (folder / MERGES).write_bytes(gzip.compress(b"a\nb c")), "it has 1 byte pairs, .* needs 10"),
        (lambda folder: save_file({"x": torch.zeros(1)}, folder / "RN50.pt"), "is no readable weights file"),
    ],
)
def test_what_is_missing_is_told_in_one_line(archive, tmp_path, change, message):
    change(tmp_path)
    with pytest.raises(UserError, match=message) as e:
        TextEncoder(str(archive), tmp_path / "cache").encode(["car"])
    assert "\n" not in str(e.value)


def test_weights_without_a_text_half_are_refused(tmp_path):
    save_file({"visual.conv1.weight": torch.zeros(1)}, tmp_path / "image.safetensors")
    with pytest.raises(UserError, match=r"there is no token_embedding.weight in it"):
        TextEncoder(str(tmp_path / "image.safetensors"), tmp_path / "cache").encode(["car"])


def cut(model, archive):
    """Weights in which a layer of the text half has no bias."""
    state = {k: v.contiguous() for k, v in model.state_dict().items() if "ln_final.bias" not in k}
    save_file(state, archive.with_suffix(".safetensors"))
    return archive.with_suffix(".safetensors")


def test_a_text_half_is_read_as_advised(model, archive, tmp_path):
    def encode(file):
        return TextEncoder(str(file), tmp_path / "cache").encode(["car"])

    save_file({"visual.conv1.weight": torch.zeros(1)}, tmp_path / "image.safetensors")
    for wrong, said in (
        (tmp_path / "image.safetensors", "give weights of CLIP with its text half"),
        (cut(model, archive), "1 of .* tensors are missing .*; give CLIP's weights as OpenAI or open_clip have them"),
    ):
        follow(lambda wrong=wrong: encode(wrong), said, lambda: encode(archive))
    pairs = (tmp_path / MERGES).read_bytes()
    for wrong, said in (
        (None, f"put OpenAI's {MERGES} beside it"),
        (b"x", "not OpenAI's file of byte pairs .*; fetch it again"),
        (gzip.compress(b"a\nb c"), "needs 10; give the file of that model"),
    ):
        (tmp_path / MERGES).unlink() if wrong is None else (tmp_path / MERGES).write_bytes(wrong)
        right = lambda: [(tmp_path / MERGES).write_bytes(pairs), load_clip(archive)]  # noqa: E731
        follow(lambda: load_clip(archive), said, right)
