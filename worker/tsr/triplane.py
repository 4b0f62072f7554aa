"""The triplane: learned tokens go into the backbone, and its output becomes the scene code."""

import torch
from torch import Tensor, nn

from worker.tsr.config import Config


class TriplaneTokens(nn.Module):
    """The learned tokens with which each scene begins."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(torch.empty(3, config.channels, config.plane_size, config.plane_size))

    def forward(self) -> Tensor:
        """Return (1, C, N); N counts planes, then rows, then columns."""
        return self.embeddings.transpose(0, 1).flatten(1)[None]


class Upsample(nn.Module):
    """(B, C, N) tokens → (B, 3, plane_channels, 2·plane_size, 2·plane_size): each token becomes 2 by 2 texels."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(config.channels, config.plane_channels, kernel_size=2, stride=2)
        self.side = config.plane_size

    def forward(self, tokens: Tensor) -> Tensor:
        """Compute (B, C, N) tokens → (B, 3, plane_channels, 2·plane_size, 2·plane_size) scene codes."""
        batch, channels, _ = tokens.shape
        planes = tokens.reshape(batch, channels, 3, self.side, self.side).transpose(
            1, 2
        )  # (B, 3, C, side, side)
        code: Tensor = self.upsample(planes.flatten(0, 1))  # (B·3, plane_channels, 2·side, 2·side)
        return code.reshape(batch, 3, *code.shape[1:])
