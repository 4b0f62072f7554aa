"""The image tokenizer: DINO's ViT. Attributes are named as the checkpoint's keys are."""

from functools import cached_property

import torch
import torch.nn.functional as F  # noqa: N812 - as all of torch's world writes it
from torch import Tensor, nn

from worker.tsr.config import ViTConfig
from worker.tsr.layers import Linear, attention

# Of ImageNet.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class ImageTokenizer(nn.Module):
    """(B, H, W, 3) square images in 0..1 → (B, 1 + patches, hidden_size) tokens, the class token first."""

    def __init__(self, config: ViTConfig, image_size: int) -> None:
        super().__init__()
        self.model = ViT(config, image_size)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise (B, H, W, 3) images in 0..1 and compute their (B, 1 + P, C) tokens."""
        normalised = (images - images.new_tensor(MEAN)) / images.new_tensor(STD)
        tokens: Tensor = self.model(normalised.permute(0, 3, 1, 2))  # (B, 3, H, W)
        return tokens


class ViT(nn.Module):
    """The vision transformer: (B, 3, H, W) normalised images → (B, 1 + P, C) tokens."""

    def __init__(self, config: ViTConfig, image_size: int) -> None:
        super().__init__()
        self.embeddings = Embeddings(config, image_size)
        self.encoder = Encoder(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, images: Tensor) -> Tensor:
        """Compute (B, 3, H, W) normalised images → (B, 1 + P, C) tokens."""
        x = self.embeddings(images)  # (B, 1 + P, C)
        for layer in self.encoder.layer:
            x = layer(x)
        tokens: Tensor = self.layernorm(x)
        return tokens


class Embeddings(nn.Module):
    """Patches and the class token with their positions: (B, 3, H, W) → (B, 1 + P, C)."""

    def __init__(self, config: ViTConfig, image_size: int) -> None:
        super().__init__()
        stored = (config.image_size // config.patch_size) ** 2
        self.side = image_size // config.patch_size
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.position_embeddings = nn.Parameter(torch.empty(1, 1 + stored, config.hidden_size))
        self.patch_embeddings = PatchEmbeddings(config)

    def forward(self, images: Tensor) -> Tensor:
        """Embed (B, 3, H, W) normalised images → (B, 1 + P, C), with the positions added."""
        patches = self.patch_embeddings.projection(images)  # (B, C, side, side)
        patches = patches.flatten(2).transpose(1, 2)  # (B, P, C), row by row
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        return x + self.positions

    @cached_property
    def positions(self) -> Tensor:
        """The position embeddings, (1, 1 + P, C): the stored grid resampled to ours, as in training.

        The reference adds 0.1 patch to the scale factor, as a guard against rounding. The factor also says where samples
        are taken: resampling to the exact size instead would move them by up to 0.043 of a cell, at the far edge.
        """
        of_class, of_patches = self.position_embeddings[:, :1], self.position_embeddings[:, 1:]
        stored = round(of_patches.shape[1] ** 0.5)
        if self.side == stored:
            return self.position_embeddings
        grid = of_patches.transpose(1, 2).reshape(1, -1, stored, stored)  # (1, C, stored, stored)
        factor = (self.side + 0.1) / stored
        grid = F.interpolate(grid, scale_factor=(factor, factor), mode="bicubic", align_corners=False)
        return torch.cat([of_class, grid.flatten(2).transpose(1, 2)], dim=1)


class PatchEmbeddings(nn.Module):
    """The projection of each square patch to a token."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, config.hidden_size, config.patch_size, stride=config.patch_size)


class Encoder(nn.Module):
    """The list of layers, under the checkpoint's name for it."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))


class Layer(nn.Module):
    """A transformer layer: (B, 1 + P, C) → (B, 1 + P, C)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.layernorm_before = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.attention = Attention(config)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.intermediate = Dense(config.hidden_size, config.intermediate_size)
        self.output = Dense(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Attend, then feed forward, each added to its input: (B, 1 + P, C) → (B, 1 + P, C)."""
        x = x + self.attention(self.layernorm_before(x))
        return x + self.output.dense(F.gelu(self.intermediate.dense(self.layernorm_after(x))))  # type: ignore[no-any-return]  # modules are untyped


class Attention(nn.Module):
    """Multi-head self-attention: (B, 1 + P, C) → (B, 1 + P, C)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.attention = QueryKeyValue(config.hidden_size)
        self.output = Dense(config.hidden_size, config.hidden_size)
        self.heads = config.num_attention_heads

    def forward(self, x: Tensor) -> Tensor:
        """Let the tokens attend to each other: (B, 1 + P, C) → (B, 1 + P, C)."""
        at = self.attention
        mixed = attention(at.query(x), at.key(x), at.value(x), self.heads)
        return self.output.dense(mixed)  # type: ignore[no-any-return]  # modules are untyped


class QueryKeyValue(nn.Module):
    """The projections of an attention, under the checkpoint's name for them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = Linear(channels, channels)
        self.key = Linear(channels, channels)
        self.value = Linear(channels, channels)


class Dense(nn.Module):
    """A linear layer, under the checkpoint's name for it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.dense = Linear(inputs, outputs)
