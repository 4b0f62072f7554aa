"""The backbone: triplane tokens attend to each other and to the image's tokens."""

from typing import cast

import torch.nn.functional as F  # noqa: N812 - as all of torch's world writes it
from torch import Tensor, nn

from worker.tsr.config import Config
from worker.tsr.layers import Linear, attention


class Backbone(nn.Module):
    """Split into `precompute`, which no image changes and which runs once, and `forward`."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(config.norm_groups, config.channels, eps=1e-6)
        self.proj_in = Linear(config.channels, config.width)
        self.transformer_blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.proj_out = Linear(config.width, config.channels)

    def precompute(self, tokens: Tensor) -> Tensor:
        """Compute everything before the first cross-attention: (1, C, N) learned tokens → (1, N, width)."""
        x = self.norm(tokens)  # in each group over all tokens of the three planes
        x = self.proj_in(x.transpose(1, 2)).float()  # (1, N, width)
        first, *_ = self._blocks
        return first.self_attend(x)

    def forward(self, tokens: Tensor, precomputed: Tensor, image_tokens: Tensor) -> Tensor:
        """Take (1, C, N) learned tokens, their `precompute` and (B, M, C') image tokens → (B, C, N)."""
        first, *others = self._blocks
        x = first.cross_attend(precomputed.expand(len(image_tokens), -1, -1), image_tokens)  # (B, N, width)
        for block in others:
            x = block.cross_attend(block.self_attend(x), image_tokens)
        change: Tensor = self.proj_out(x)  # (B, N, C)
        return change.transpose(1, 2) + tokens

    @property
    def _blocks(self) -> "list[Block]":
        return cast("list[Block]", list(self.transformer_blocks))


class Block(nn.Module):
    """A transformer block in two steps. The first does not depend on the image unless an earlier block does."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attn1 = Attention(config, config.width)
        self.norm2 = nn.LayerNorm(config.width)
        self.attn2 = Attention(config, config.vit.hidden_size)
        self.norm3 = nn.LayerNorm(config.width)
        self.ff = FeedForward(config.width)

    def self_attend(self, x: Tensor) -> Tensor:
        """Let the triplane tokens attend to each other: (B, N, width) → (B, N, width)."""
        normed = self.norm1(x)
        return x + self.attn1(normed, normed)  # type: ignore[no-any-return]  # modules are untyped

    def cross_attend(self, x: Tensor, image_tokens: Tensor) -> Tensor:
        """Let the triplane tokens attend to (B, M, C') image tokens, then feed forward: (B, N, width) → the same."""
        x = x + self.attn2(self.norm2(x), image_tokens)
        return x + self.ff(self.norm3(x))  # type: ignore[no-any-return]  # modules are untyped


class Attention(nn.Module):
    """Multi-head attention of (B, N, width) to a context with `context` channels."""

    def __init__(self, config: Config, context: int) -> None:
        super().__init__()
        self.to_q = Linear(config.width, config.width, bias=False)
        self.to_k = Linear(context, config.width, bias=False)
        self.to_v = Linear(context, config.width, bias=False)
        self.to_out = nn.Sequential(Linear(config.width, config.width))
        self.heads = config.num_heads

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Attend: (B, N, width) and a context (B, M, C) → (B, N, width)."""
        mixed = attention(self.to_q(x), self.to_k(context), self.to_v(context), self.heads)
        return self.to_out(mixed)  # type: ignore[no-any-return]  # modules are untyped


class FeedForward(nn.Module):
    """The feed-forward part of a block: (B, N, width) → (B, N, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # Index 1 was a dropout in training; the checkpoint's keys still count it.
        self.net = nn.Sequential(GEGLU(width, 4 * width), nn.Identity(), Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Compute (B, N, width) → (B, N, width)."""
        return self.net(x)  # type: ignore[no-any-return]  # modules are untyped


class GEGLU(nn.Module):
    """A linear layer gated by GELU: (…, inputs) → (…, outputs)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = Linear(inputs, 2 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Compute (…, inputs) → (…, outputs)."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)  # type: ignore[no-any-return]  # modules are untyped
