"""Sample a texture at the size at which it is seen: in linear light, from a chain of halved copies."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_LEVELS = np.arange(256) / 255
LINEAR: Floats = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4).astype(
    np.float32
)
"""(256,) float32, the linear light of each step of 8-bit sRGB, by IEC 61966-2-1."""


class MipMaps:
    """A texture and its halves of halves. `texels` is the number of texels of the texture itself."""

    def __init__(self, texture: NDArray[np.uint8]) -> None:
        """Take an (H, W, 3) sRGB texture; halving ends at an odd side or at 4 texels."""
        level: Floats = LINEAR[texture]
        levels = [level]
        while min(level.shape[:2]) > 4 and level.shape[0] % 2 == level.shape[1] % 2 == 0:
            level = (level[::2, ::2] + level[1::2, ::2] + level[::2, 1::2] + level[1::2, 1::2]) * np.float32(
                0.25
            )
            levels.append(level)
        self._flat = np.concatenate([level.reshape(-1, 3) for level in levels])
        self._height, self._width = np.array([level.shape[:2] for level in levels], np.int32).T
        self._start = (np.cumsum([0, *(self._height * self._width)[:-1]])).astype(np.int32)
        self.texels = int(self._height[0] * self._width[0])

    def sample(self, uv: Floats, level: NDArray[np.int32]) -> Floats:
        """Sample bilinearly.

        Args:
            uv: (N, 2) in 0..1, v downwards.
            level: (N,) of the chain: 0 is the full size, each further one half of it. Clipped to the levels that exist.

        Returns:
            (N, 3) linear light in 0..1.
        """
        level = np.clip(level, 0, len(self._start) - 1)
        height, width, start = self._height[level], self._width[level], self._start[level]
        x = np.clip(uv[:, 0] * width - np.float32(0.5), 0, width - 1).astype(np.float32)
        y = np.clip(uv[:, 1] * height - np.float32(0.5), 0, height - 1).astype(np.float32)
        left, top = x.astype(np.int32), y.astype(np.int32)
        across, down = (x - left)[:, None], (y - top)[:, None]
        upper = start + top * width
        lower = start + np.minimum(top + 1, height - 1) * width
        right = np.minimum(left + 1, width - 1)
        above = self._blend(upper + left, upper + right, across)
        below = self._blend(lower + left, lower + right, across)
        above += (below - above) * down
        return above

    def _blend(self, first: NDArray[np.int32], second: NDArray[np.int32], share: Floats) -> Floats:
        start, end = self._flat.take(first, axis=0), self._flat.take(second, axis=0)
        end -= start
        end *= share
        end += start
        return end


STEPS = 1 << 13  # of linear light in `SRGB`; the darkest steps of 8-bit sRGB are 1/3295 apart
_LIGHT = np.arange(STEPS + 1) / STEPS
SRGB: NDArray[np.uint8] = (
    np.where(_LIGHT <= 0.0031308, _LIGHT * 12.92, 1.055 * _LIGHT ** (1 / 2.4) - 0.055) * 255 + 0.5
).astype(np.uint8)
"""(STEPS + 1,) uint8, the nearest step of sRGB for linear light from 0 to 1, by IEC 61966-2-1."""


def srgb_bytes(light: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Convert linear light, any shape, 0..1, to 8-bit sRGB; clip what is outside."""
    return np.asarray(SRGB[(np.clip(light, 0, 1) * STEPS + 0.5).astype(np.intp)])
