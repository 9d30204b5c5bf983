"""timm's plain transformers in a small size: their own kind of block, embedding and tokens, but 4 narrow blocks."""

import timm

SIZES = {"depth": 4, "embed_dim": 32, "num_heads": 2}

FAMILIES = {
    "vit_tiny_patch16_224": 16,
    "vit_base_patch8_224": 8,
    "vit_base_patch32_224": 32,
    "vit_small_patch14_dinov2": 14,
    "vit_small_patch14_reg4_dinov2": 14,
    "vit_small_patch16_dinov3": 16,
    "vit_base_patch16_siglip_224": 16,
    "vit_base_patch16_siglip_gap_224": 16,
    "vit_base_patch16_clip_224": 16,
    "eva02_tiny_patch14_224": 14,
    "eva02_base_patch16_clip_224": 16,
    "beit_base_patch16_224": 16,
    "beitv2_base_patch16_224": 16,
    "beit3_base_patch16_224": 16,
    "deit_tiny_distilled_patch16_224": 16,
    "deit3_small_patch16_224": 16,
    "naflexvit_base_patch16_gap": 16,
    "vit_base_patch16_rope_224": 16,
}
"""A member of every family, and the side of its patches."""

if not hasattr(timm.models.NaFlexVit, "prune_intermediate_layers"):
    del FAMILIES["naflexvit_base_patch16_gap"]  # Of an older timm: refused in words.

create = timm.create_model


def create_small(name, **keywords):
    """Build a plain transformer of timm in the small size, and any other model as it is."""
    family = timm.models.model_entrypoint(name).__module__.rsplit(".", 1)[-1]
    plain = family in ("beit", "deit", "eva", "naflexvit", "vision_transformer")
    return create(name, **({**SIZES, **keywords} if plain else keywords))
