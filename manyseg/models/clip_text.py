"""The text encoder of CLIP from the files of its authors and of open_clip, as a model and a tokeniser of transformers.

Read are OpenAI's TorchScript archives (RN50.pt), checkpoints of open_clip, and folders of open_clip as the hub has
them; always as tensors, no code of a file is run. Weights do not hold the words that tokens stand for: these are in a
file of OpenAI's, `bpe_simple_vocab_16e6.txt.gz`, which is looked for beside the weights and in the package open_clip.
A folder with a tokeniser of its own needs none.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from manyseg.errors import UserError
from manyseg.models.weights import is_torchscript, read_tensors

__all__ = ["is_clip", "load_clip", "read_config"]

MERGES = "bpe_simple_vocab_16e6.txt.gz"
"""OpenAI's file of the byte pairs that tokens are joined from, in the order of their ids, after a line of its own."""

CONFIG = "open_clip_config.json"

START, END = "<|startoftext|>", "<|endoftext|>"

WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What a text is split into before bytes are joined (Radford et al. 2021)."""

HEAD = 64
"""Width of an attention head, in all of CLIP's models."""

NAMES = (
    (r"^token_embedding\.weight$", "embeddings.token_embedding.weight"),
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
    (r"^ln_final\.", "final_layer_norm."),
    (r"^transformer\.resblocks\.(\d+)\.ln_", r"encoder.layers.\1.layer_norm"),
    (r"^transformer\.resblocks\.(\d+)\.attn\.", r"encoder.layers.\1.self_attn."),
    (r"^transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"encoder.layers.\1.mlp.fc1."),
    (r"^transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"encoder.layers.\1.mlp.fc2."),
)
"""Names of the authors' tensors and of those of transformers."""


def is_clip(source: Path) -> bool:
    """Say whether this is a file of weights, or a folder of open_clip, and not a folder of transformers."""
    return source.is_file() or ((source / CONFIG).is_file() and not _of_transformers(source))


def read_config(source: Path) -> Any:
    """Return the configuration, of transformers' type, that follows from the sizes of the tensors."""
    return _configure(source, source.stat().st_mtime_ns)


def load_clip(source: Path) -> tuple[Any, Any]:
    """Return tokeniser and model; raises UserError for weights that hold no text encoder, and where words are unknown.

    The model gives the projected vector at the end of a text, as CLIP compares it with images.
    """
    from transformers import CLIPTextModelWithProjection

    config = read_config(source)
    tokenizer = _tokenizer(source, config)
    model = CLIPTextModelWithProjection(config)
    given = _renamed(_tensors(source))
    wanted = model.state_dict()
    unfit = [k for k, v in wanted.items() if k not in given or given[k].shape != v.shape]
    if unfit := [k for k in unfit if not k.endswith("position_ids")]:
        raise UserError(
            f"text encoder {source}: {len(unfit)} of {len(wanted)} tensors are missing or of another shape "
            f"({', '.join(unfit[:3])}); give CLIP's weights as OpenAI or open_clip have them"
        )
    model.load_state_dict({k: v.float() for k, v in given.items() if k in wanted}, strict=False)
    return tokenizer, model


def _of_transformers(folder: Path) -> bool:
    config = folder / "config.json"
    return config.is_file() and "model_type" in json.loads(config.read_text())


def _tensors(source: Path) -> dict[str, Tensor]:
    """Return the tensors of the text half, by their names in OpenAI's files."""
    given = read_tensors(source, "text encoder")
    # open_clip has the text half of some models under `text.`.
    prefix = "text." if "text.token_embedding.weight" in given else ""
    found = {k.removeprefix(prefix): v for k, v in given.items() if k.startswith(prefix)}
    if missing := [k for k in ("token_embedding.weight", "positional_embedding", "text_projection") if k not in found]:
        raise UserError(
            f"text encoder {source}: there is no {missing[0]} in it; give weights of CLIP with its text half"
        )
    return found


@lru_cache(maxsize=4)
def _configure(source: Path, _: int) -> Any:
    from transformers import CLIPTextConfig

    tensors = _tensors(source)
    words, width = tensors["token_embedding.weight"].shape
    layers = {name.split(".")[2] for name in tensors if name.startswith("transformer.resblocks.")}
    said = json.loads((source / CONFIG).read_text())["model_cfg"] if source.is_dir() else {}
    quick = said.get("quick_gelu", False) if source.is_dir() else is_torchscript(source)
    inner = tensors.get("transformer.resblocks.0.mlp.c_fc.bias")
    return CLIPTextConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=4 * width if inner is None else len(inner),
        projection_dim=tensors["text_projection"].shape[1],
        num_hidden_layers=len(layers),
        num_attention_heads=said.get("text_cfg", {}).get("heads", max(1, width // HEAD)),
        max_position_embeddings=len(tensors["positional_embedding"]),
        hidden_act="quick_gelu" if quick else "gelu",
        bos_token_id=words - 2,
        eos_token_id=words - 1,
        pad_token_id=words - 1,
        architectures=["CLIPTextModelWithProjection"],
    )


def _renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors by the names of transformers; the three projections of attention are one tensor in CLIP's."""
    out = {"text_projection.weight": tensors["text_projection"].T}
    for name, value in tensors.items():
        new = next((re.sub(old, to, name) for old, to in NAMES if re.search(old, name)), None)
        if new is None:
            continue
        joint = re.fullmatch(r"(.*)\.in_proj_(weight|bias)", new)
        if joint is None:
            out[f"text_model.{new}"] = value
            continue
        for part, rows in zip("qkv", value.chunk(3), strict=True):
            out[f"text_model.{joint[1]}.{part}_proj.{joint[2]}"] = rows
    return out


def _tokenizer(source: Path, config: Any) -> Any:
    folder = source if source.is_dir() else source.parent
    if source.is_dir() and any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(str(folder))
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    merges = _merges(_find_merges(folder, source), config.vocab_size, source)
    letters = _byte_letters()
    names = [*letters, *(c + "</w>" for c in letters), *(a + b for a, b in merges), START, END]
    vocab = {name: i for i, name in enumerate(names)}
    bpe = models.BPE(vocab, merges, continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token=END)
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    marks = [(START, vocab[START]), (END, vocab[END])]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=marks)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        cls_token=START,
        sep_token=END,
        model_max_length=config.max_position_embeddings,
        model_input_names=["input_ids", "attention_mask"],
    )


def _find_merges(folder: Path, source: Path) -> Path:
    spec = find_spec("open_clip")
    installed = [Path(place) / MERGES for place in (spec.submodule_search_locations or [])] if spec else []
    for path in (folder / MERGES, *installed):
        if path.is_file():
            return path
    raise UserError(
        f"text encoder {source}: it holds no words; put OpenAI's {MERGES} beside it, pip install open_clip_torch, "
        "which has it, or give a Hugging Face folder of the same model"
    )


def _merges(path: Path, vocabulary: int, source: Path) -> list[tuple[str, str]]:
    """Read as many pairs as the vocabulary has beside single bytes and the two marks."""
    count = vocabulary - 2 * 256 - 2
    try:
        lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : 1 + count]
        pairs = [(a, b) for a, b in (line.split() for line in lines)]
    except (OSError, EOFError, ValueError, zlib.error) as e:
        raise UserError(f"{path}: not OpenAI's file of byte pairs ({type(e).__name__}); fetch it again") from None
    if len(pairs) != count:
        raise UserError(f"{path}: it has {len(pairs)} byte pairs, {source} needs {count}; give the file of that model")
    return pairs


def _byte_letters() -> list[str]:
    """Return the letters that stand for bytes in byte pairs, in the order of their ids."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(b) for b in shown] + [chr(256 + i) for i in range(256 - len(shown))]
