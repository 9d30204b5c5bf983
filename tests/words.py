"""Text encoders for tests that need one but no meaning: a function, and one of random weights in a folder."""

import zlib
from pathlib import Path

import numpy as np
import torch

from manyseg.labels import normalise

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def encode(texts):
    """Return unit vectors that are all far from each other, but for those of texts with a word in common."""
    out = np.zeros((len(texts), 256), np.float32)
    for row, text in zip(out, texts, strict=True):
        for word in normalise(text).split():
            row += np.random.default_rng(zlib.crc32(word.encode())).normal(size=256)
    return out / np.linalg.norm(out, axis=1, keepdims=True)


def write_encoder(folder: Path, words: list[str], *, kind: str = "bert", limit: int = 24) -> str:
    """Save an encoder ("bert" or "clip") that knows `words`, and return its folder."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, CLIPTextConfig, CLIPTextModelWithProjection, PreTrainedTokenizerFast

    # CLIP takes the largest id for the end of a text.
    names = [*MARKS[:3], MARKS[4], *sorted({w.lower() for w in words}), MARKS[3]]
    ids = {w: i for i, w in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    frame = [("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=frame)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=limit,
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = SIZES | {"vocab_size": len(names), "max_position_embeddings": limit}
    if kind == "bert":
        # Wide, so that words differ: BERT's own deviation of 0.02 is soon the same for all of them.
        BertModel(BertConfig(**sizes, initializer_range=0.5)).save_pretrained(folder)
    else:
        marks = {"bos_token_id": ids["[CLS]"], "eos_token_id": ids["[SEP]"], "pad_token_id": 0}
        CLIPTextModelWithProjection(CLIPTextConfig(**sizes, **marks, projection_dim=6)).save_pretrained(folder)
    return str(folder)
