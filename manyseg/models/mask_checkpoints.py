"""Published networks of mask queries in transformers' layout, under this package's names.

Only their tensors are read (safetensors, or a checkpoint of torch without its code). A name begins with `trunk.` (then
timm's names), `levels.` (norms of the trunk's levels), `neck.`, or `decoder.` (those of `manyseg.models.eomt` or
`mask2former`, and `classes.` for the linear layer of the classes).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from manyseg.errors import UserError
from manyseg.models.weights import read_tensors

__all__ = ["INIT", "eomt", "mask2former", "read_published"]

INIT = "model.init"

HUB = "hf:"

EOMT = (
    (r"embeddings\.cls_token", "trunk.cls_token"),
    (r"embeddings\.register_tokens", "trunk.reg_token"),
    (r"embeddings\.patch_embeddings\.projection\.", "trunk.patch_embed.proj."),
    (r"embeddings\.position_embeddings\.weight", "trunk.pos_embed"),
    (r"layernorm\.", "trunk.norm."),
    (r"layers\.(\d+)\.attention\.out_proj\.", r"trunk.blocks.\1.attn.proj."),
    (r"layers\.(\d+)\.attention\.", r"trunk.blocks.\1.attn."),
    (r"layers\.(\d+)\.layer_scale(\d)\.lambda1", r"trunk.blocks.\1.ls\2.gamma"),
    (r"layers\.(\d+)\.", r"trunk.blocks.\1."),
    (r"query\.weight", "decoder.initial_queries"),
    (r"mask_head\.fc1\.", "decoder.mask.0."),
    (r"mask_head\.fc2\.", "decoder.mask.2."),
    (r"mask_head\.fc3\.", "decoder.mask.4."),
    (r"upscale_block\.block\.(\d+)\.layernorm2d\.", r"decoder.upscale.\1.norm."),
    (r"upscale_block\.block\.(\d+)\.", r"decoder.upscale.\1."),
    (r"class_predictor\.", "decoder.classes."),
    (r"attn_mask_probs", "decoder.mask_probability"),
)
"""Beginnings of transformers' names of an EoMT of DINOv2, and of ours."""


PYRAMID = r"model\.pixel_level_module\.decoder\."
ENCODER = PYRAMID + r"encoder\.layers\.(\d+)\."
DECODER = r"model\.transformer_module\.decoder\."

MASK2FORMER = (
    (PYRAMID + r"level_embed", "neck.level"),
    (PYRAMID + r"input_projections\.", "neck.inputs."),
    (PYRAMID + r"mask_projection\.", "neck.out."),
    (PYRAMID + r"adapter_1\.", "neck.laterals.0."),
    (PYRAMID + r"layer_1\.", "neck.smooths.0."),
    (ENCODER + r"self_attn\.sampling_offsets\.", r"neck.layers.\1.offsets."),
    (ENCODER + r"self_attn\.attention_weights\.", r"neck.layers.\1.weights."),
    (ENCODER + r"self_attn\.value_proj\.", r"neck.layers.\1.value."),
    (ENCODER + r"self_attn\.output_proj\.", r"neck.layers.\1.projection."),
    (ENCODER + r"self_attn_layer_norm\.", r"neck.layers.\1.norm1."),
    (ENCODER + r"final_layer_norm\.", r"neck.layers.\1.norm2."),
    (ENCODER + r"", r"neck.layers.\1."),
    (r"model\.transformer_module\.queries_embedder\.weight", "decoder.places"),
    (r"model\.transformer_module\.queries_features\.weight", "decoder.initial_queries"),
    (r"model\.transformer_module\.level_embed\.weight", "decoder.level"),
    (DECODER + r"layernorm\.", "decoder.norm."),
    (DECODER + r"mask_predictor\.mask_embedder\.0\.0\.", "decoder.mask.0."),
    (DECODER + r"mask_predictor\.mask_embedder\.1\.0\.", "decoder.mask.2."),
    (DECODER + r"mask_predictor\.mask_embedder\.2\.0\.", "decoder.mask.4."),
    (DECODER + r"layers\.(\d+)\.cross_attn\.in_proj_(\w+)", r"decoder.blocks.\1.looks.image.joint.\2"),
    (DECODER + r"layers\.(\d+)\.cross_attn\.out_proj\.", r"decoder.blocks.\1.looks.image.out."),
    (DECODER + r"layers\.(\d+)\.self_attn\.q_proj\.", r"decoder.blocks.\1.looks.self.query."),
    (DECODER + r"layers\.(\d+)\.self_attn\.k_proj\.", r"decoder.blocks.\1.looks.self.key."),
    (DECODER + r"layers\.(\d+)\.self_attn\.v_proj\.", r"decoder.blocks.\1.looks.self.value."),
    (DECODER + r"layers\.(\d+)\.self_attn\.out_proj\.", r"decoder.blocks.\1.looks.self.out."),
    (DECODER + r"layers\.(\d+)\.cross_attn_layer_norm\.", r"decoder.blocks.\1.norms.image."),
    (DECODER + r"layers\.(\d+)\.self_attn_layer_norm\.", r"decoder.blocks.\1.norms.self."),
    (DECODER + r"layers\.(\d+)\.final_layer_norm\.", r"decoder.blocks.\1.norms.feed."),
    (DECODER + r"layers\.(\d+)\.", r"decoder.blocks.\1."),
    (r"class_predictor\.", "decoder.classes."),
)
"""Beginnings of transformers' names of a Mask2Former's pixel decoder and decoder, and of ours."""

TRUNK = r"model\.pixel_level_module\.encoder\.(?:swin\.|model\.)?"
BLOCK = TRUNK + r"encoder\.layers\.(\d+)\.blocks\.(\d+)\."

SWIN = (
    (TRUNK + r"embeddings\.patch_embeddings\.projection\.", "trunk.patch_embed.proj."),
    (TRUNK + r"embeddings\.norm\.", "trunk.patch_embed.norm."),
    (BLOCK + r"layernorm_before\.", r"trunk.layers.\1.blocks.\2.norm1."),
    (BLOCK + r"layernorm_after\.", r"trunk.layers.\1.blocks.\2.norm2."),
    (BLOCK + r"attention\.(?:self\.)?(?:relative_position_bias\.)?relative_position_bias_table",
     r"trunk.layers.\1.blocks.\2.attn.relative_position_bias_table"),
    (BLOCK + r"attention\.(?:self\.query|q_proj)\.", r"trunk.layers.\1.blocks.\2.attn.q_proj."),
    (BLOCK + r"attention\.(?:self\.key|k_proj)\.", r"trunk.layers.\1.blocks.\2.attn.k_proj."),
    (BLOCK + r"attention\.(?:self\.value|v_proj)\.", r"trunk.layers.\1.blocks.\2.attn.v_proj."),
    (BLOCK + r"attention\.(?:output\.dense|o_proj)\.", r"trunk.layers.\1.blocks.\2.attn.proj."),
    (BLOCK + r"(?:intermediate\.dense|mlp\.fc1)\.", r"trunk.layers.\1.blocks.\2.mlp.fc1."),
    (BLOCK + r"(?:output\.dense|mlp\.fc2)\.", r"trunk.layers.\1.blocks.\2.mlp.fc2."),
    (TRUNK + r"encoder\.layers\.(\d+)\.downsample\.", r"trunk.after.\1.downsample."),
    (r"model\.pixel_level_module\.encoder\.hidden_states_norms\.stage(\d)\.", r"stage.\1."),
)  # fmt: skip
"""The same of its Swin, as transformers 4 and 5 call its parts. timm has the merging of patches before a stage."""


def read_published(init: str) -> dict[str, Tensor]:
    """Read a network by its name on the hub ("hf:name"), or from a folder or file; raises UserError."""
    path = Path(init.removeprefix(HUB))
    given = read_tensors(path if path.exists() else _download(init), INIT)
    if "model.transformer_module.queries_features.weight" in given:
        return mask2former(given)
    if "query.weight" not in given or "mask_head.fc1.weight" not in given:
        raise UserError(
            f"{INIT}: {init} holds no EoMT and no Mask2Former of transformers; give one, or use model.pretrained"
        )
    if "embeddings.position_embeddings.weight" not in given:
        raise UserError(f"{INIT}: {init} is no EoMT of DINOv2, the only one that is read; give one of these")
    return eomt(given)


def eomt(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of transformers' `EomtForUniversalSegmentation` under our names."""
    out = _renamed(given, EOMT)
    out["trunk.pos_embed"] = out["trunk.pos_embed"][None]
    return _joined(out)


def mask2former(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of transformers' `Mask2FormerForUniversalSegmentation` with a Swin under our names.

    Keys of attention have no bias here, which the softmax over keys would cancel.
    """
    out = _joined(_renamed(given, (*MASK2FORMER, *SWIN)))
    out = {re.sub(r"^trunk\.after\.(\d)", lambda m: f"trunk.layers.{int(m[1]) + 1}", k): v for k, v in out.items()}
    out = {re.sub(r"^stage\.(\d)", lambda m: f"levels.{int(m[1]) - 1}", k): v for k, v in out.items()}
    for name in [n for n in out if ".joint." in n]:
        parts = zip(("query", "key", "value"), out.pop(name).chunk(3), strict=True)
        out |= {name.replace("joint", part): value for part, value in parts}
    return {name: value for name, value in out.items() if not name.endswith("key.bias")}


def _joined(given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join the layers of queries, keys and values to one, as timm has them."""
    for name in [n for n in given if ".attn.q_proj." in n]:
        parts = [given.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        given[name.replace("q_proj", "qkv")] = torch.cat(parts)
    return given


def _renamed(given: Mapping[str, Tensor], names: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """Give tensors the names of the first beginning that fits; the others are left out."""
    out: dict[str, Tensor] = {}
    for name, value in given.items():
        for pattern, new in names:
            if re.match(pattern, name):
                out[re.sub(f"^{pattern}", new, name)] = value
                break
    return out


def _download(init: str) -> Path:
    if not init.startswith(HUB):
        raise UserError(f'{INIT}: there is no file or folder {init}; give one, or a name of the hub as "hf:name"')
    from huggingface_hub import hf_hub_download

    name = init.removeprefix(HUB)
    try:
        return Path(hf_hub_download(name, "model.safetensors"))
    except Exception as e:  # What fails without a network differs between releases.
        raise UserError(
            f"{INIT}: cannot get '{name}' from the hub ({type(e).__name__}); give a folder of it, or leave it out"
        ) from e
