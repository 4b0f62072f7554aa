"""The whole network."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor, nn

from worker.tsr.config import Config
from worker.tsr.field import Decoder, Field
from worker.tsr.image import RgbImage, stack
from worker.tsr.layers import to_precision
from worker.tsr.transformer import Backbone
from worker.tsr.triplane import TriplaneTokens, Upsample
from worker.tsr.vit import ImageTokenizer


class TripoSR(nn.Module):
    """Photos → scene codes → fields. The weights are undefined until they are loaded, and do not change afterwards.

    `dtype` is the precision of the two transformers. Images, sums, norms, scene code and field are float32.
    """

    def __init__(self, config: Config, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.image_tokenizer = ImageTokenizer(config.vit, config.image_size)
        self.tokenizer = TriplaneTokens(config)
        self.backbone = Backbone(config)
        self.post_processor = Upsample(config)
        self.decoder = Decoder(config)
        self._set_precision(dtype)
        self.requires_grad_(requires_grad=False)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.tokenizer.embeddings.device

    def encode(self, images: Sequence[RgbImage]) -> Tensor:
        """Encode RGB photos of any sizes → (B, 3, C, side, side) scene codes, float32.

        Args:
            images: PIL images, or (H, W, 3) arrays of uint8 or of floats in 0..1. The network was trained with objects on
                0.5 grey (see `composite_on_grey`), centred, 0.85 of the square long.

        Raises:
            ValueError: an image is not RGB, or there is none.
        """
        return self.scene_codes(self.image_tokens(images))

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        """Compute in float32 inside the block, with the weights as they are. It takes the memory of the larger weights."""
        try:
            self._set_precision(torch.float32)
            yield
        finally:
            self._set_precision(self.dtype)

    def image_tokens(self, images: Sequence[RgbImage]) -> Tensor:
        """Tokenize photos, as for `encode` → (B, 1 + patches, hidden_size), the class token first."""
        tokens: Tensor = self.image_tokenizer(stack(images, self.config.image_size).to(self.device))
        return tokens

    def scene_codes(self, image_tokens: Tensor) -> Tensor:
        """Compute scene codes: (B, 1 + patches, hidden_size) image tokens → (B, 3, C, side, side)."""
        tokens, precomputed = self._precomputed
        codes: Tensor = self.post_processor(self.backbone(tokens, precomputed, image_tokens))
        return codes

    def field(self, code: Tensor, chunk: int | None = None) -> Field:
        """Return the field of one scene code, (3, C, side, side). Raises: ValueError for any other shape.

        `chunk`: points computed at a time. It bounds the memory, about 2 kB for each point.
        """
        if (
            code.ndim != 4
            or code.shape[:2] != (3, self.config.plane_channels)
            or code.shape[2] != code.shape[3]
        ):
            raise ValueError(
                f"A scene code has the shape {tuple(code.shape)}, must be (3, {self.config.plane_channels}, side, side)."
            )
        return Field(code.to(self.device), self.decoder, self.config, chunk)

    def _set_precision(self, dtype: torch.dtype) -> None:
        to_precision(self.image_tokenizer, dtype)
        to_precision(self.backbone, dtype)
        self.__dict__.pop("_precomputed", None)  # it was computed in the other precision

    @cached_property
    def _precomputed(self) -> tuple[Tensor, Tensor]:
        """Return the learned tokens and what the backbone computes of them before it attends to an image."""
        tokens: Tensor = self.tokenizer()
        return tokens, self.backbone.precompute(tokens)
