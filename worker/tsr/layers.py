"""What the ViT and the backbone are both made of."""

import torch
import torch.nn.functional as F  # noqa: N812 - as all of torch's world writes it
from torch import Tensor, nn


class Linear(nn.Linear):
    """Computes in its weights' precision, whatever that of its input.

    Half precision is a matter of these matrices alone: they are 99 % of the weights and of the arithmetic, while the
    stream between them, their sums and norms stay float32. That is what autocast does, without its cast of the
    weights at every call.
    """

    def reset_parameters(self) -> None:
        """Nothing: weights come from a checkpoint, and random numbers for 419 million of them take seconds."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias)


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """(B, N, heads·D) queries, (B, M, heads·D) keys and values → (B, N, heads·D), scaled by 1/√D."""
    q, k, v = (
        x.view(*x.shape[:2], heads, -1).transpose(1, 2) for x in (query, key, value)
    )  # (B, heads, N, D)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def to_precision(module: nn.Module, dtype: torch.dtype) -> None:
    for child in module.modules():
        if isinstance(child, Linear):
            child.to(dtype)
