"""Words as class vectors: a frozen text encoder, learnable prompt vectors before the words, and a linear adapter.

Source: Zhou et al., "LMSeg" (ICLR 2023), section 3.2; the prompt is CoOp's (Zhou et al., IJCV 2022).

Axes: N texts, K prompt vectors, E width of a token, F width of a text's vector, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from manyseg.errors import UserError
from manyseg.models.text import TextEncoder

__all__ = ["Prompted"]


class Prompted(nn.Module):
    """Vectors of a fixed list of texts, and of any others, in the space of the queries.

    The encoder is no part of the state: its vectors are, as they came out of it last, and a model whose state was
    loaded needs the encoder for new texts only. In training mode a prompt (K > 0) sends all texts through the encoder
    in every step; without one each text is encoded once.

    `model` is TextEncoder's. Where it cannot be found, a state can still be loaded: widths follow the state.
    """

    vectors: Tensor

    def __init__(self, texts: Sequence[str], channels: int, *, model: str | None = None, tokens: int = 8) -> None:
        super().__init__()
        self.texts, self.model = list(texts), model
        self._encoder: TextEncoder | None = None
        self._others: dict[str, Tensor] = {}
        self._current = False
        self.known = True
        try:
            token, vector = self.encoder.widths
        except UserError:
            self.known, token, vector = False, 1, 1
        # Normal with deviation 0.02, as CoOp's.
        self.prompt = nn.Parameter(0.02 * torch.randn(tokens, token)) if tokens else None
        # Their values are those of the prompt as it is now only where `_current`.
        self.register_buffer("vectors", torch.zeros(len(self.texts), vector))
        self.norm = nn.LayerNorm(vector)
        self.adapter = nn.Linear(vector, channels)
        self.register_state_dict_pre_hook(_refresh)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_follow_widths)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_trust)  # type: ignore[no-untyped-call]

    @property
    def encoder(self) -> TextEncoder:
        """The text encoder, not loaded before it is needed."""
        if self._encoder is None:
            self._encoder = TextEncoder(self.model)
        return self._encoder

    def forward(self) -> Float[Tensor, "N C"]:
        """Return the fixed texts' vectors, with a gradient to the prompt where it is being trained."""
        if self.prompt is not None and self.training and torch.is_grad_enabled():
            self._current = False
            return self.adapt(self._encode(self.texts))
        self.refresh()
        return self.adapt(self.vectors)

    def encode(self, texts: Sequence[str]) -> Float[Tensor, "M C"]:
        """Return other texts' vectors; each is encoded once while the prompt does not change."""
        self.refresh()
        known = dict(zip(self.texts, self.vectors, strict=True)) | self._others
        if missing := [t for t in dict.fromkeys(texts) if t not in known]:
            with torch.no_grad():
                self._others.update(zip(missing, self._encode(missing), strict=True))
            known |= self._others
        return self.adapt(torch.stack([known[t].to(self.vectors.device) for t in texts]))

    def adapt(self, vectors: Float[Tensor, "N F"]) -> Float[Tensor, "N C"]:
        """Bring text vectors into the space of the queries: LayerNorm and a linear layer."""
        out: Tensor = self.adapter(self.norm(vectors))
        return out

    @torch.no_grad()
    def refresh(self) -> None:
        """Encode the fixed texts if the prompt may have changed since they were encoded last."""
        if not self._current:
            self.vectors.copy_(self._encode(self.texts))
            self._others.clear()
            self._current = True

    def _encode(self, texts: list[str]) -> Float[Tensor, "N F"]:
        device = self.vectors.device
        if self.prompt is None:
            return torch.from_numpy(self.encoder.encode(texts)).to(device)
        return self.encoder.with_prompt(texts, self.prompt)


def _refresh(module: nn.Module, prefix: str, keep_vars: bool) -> None:
    assert isinstance(module, Prompted)
    module.refresh()


def _follow_widths(module: nn.Module, state: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
    """Take the state's widths where there is no encoder to ask."""
    assert isinstance(module, Prompted)
    saved = state.get(f"{prefix}vectors")
    if module.known or saved is None or len(saved) != len(module.texts):
        return
    module.vectors = saved.new_zeros(saved.shape, device=module.vectors.device)
    module.norm = nn.LayerNorm(saved.shape[1]).to(module.vectors.device)
    module.adapter = nn.Linear(saved.shape[1], module.adapter.out_features).to(module.vectors.device)
    if module.prompt is not None and f"{prefix}prompt" in state:
        module.prompt = nn.Parameter(torch.zeros_like(state[f"{prefix}prompt"], device=module.vectors.device))


def _trust(module: nn.Module, keys: Any) -> None:
    """Take the loaded vectors for those of the loaded prompt, unless the state was of another model."""
    assert isinstance(module, Prompted)
    module._others.clear()
    module._current = not any(key.endswith("vectors") for key in keys.missing_keys)
