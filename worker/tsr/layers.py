"""Layers that the ViT and the backbone share."""

import torch
import torch.nn.functional as F  # noqa: N812 - as all of torch's world writes it
from torch import Tensor, nn


class Linear(nn.Linear):
    """A linear layer that computes in its weights' precision, whatever its input has.

    Only these matrices are in half precision: they are 99 % of the weights and of the arithmetic. The values between
    them, sums and norms stay float32. This is what autocast does, except that autocast casts the weights at each call.
    """

    def reset_parameters(self) -> None:
        """Do nothing: the weights come from a checkpoint, and 419 million random numbers take seconds."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute (…, inputs) of any float type → (…, outputs) in the precision of the weights."""
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias)


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attend: (B, N, heads·D) queries, (B, M, heads·D) keys and values → (B, N, heads·D), scaled by 1/√D."""
    q, k, v = (
        x.view(*x.shape[:2], heads, -1).transpose(1, 2) for x in (query, key, value)
    )  # (B, heads, N, D)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def to_precision(module: nn.Module, dtype: torch.dtype) -> None:
    """Convert the module's `Linear` layers, and nothing else in it, to a precision."""
    for child in module.modules():
        if isinstance(child, Linear):
            child.to(dtype)
