"""A scene code and the decoder → density and colour at any point."""

from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - as all of torch's world writes it
from numpy.typing import NDArray
from torch import Tensor, nn

from worker.tsr.config import Config
from worker.tsr.layers import Linear

LEVEL = 25.0  # the density at which the reference extracts the surface
CPU_CHUNK = 8192  # points at a time: few enough for the caches, enough for all cores
GPU_CHUNK = 1 << 18
LEAST_CHUNK = 4096  # at which a device without memory is given up

# The coordinate along the columns and along the rows of each plane: xy, xz, yz.
COLUMN = (0, 0, 1)
ROW = (1, 2, 2)

Points = Tensor | NDArray[np.floating]


class Decoder(nn.Module):
    """Features of the three planes → raw density and raw colour. `Field` computes it in another order."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        widths = [3 * config.plane_channels, *[config.neurons] * config.hidden_layers]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [Linear(inputs, outputs), nn.SiLU()]
        self.layers = nn.Sequential(*layers, Linear(config.neurons, 4))

    @property
    def linears(self) -> list[Linear]:
        """The linear layers in order; SiLU is between them."""
        return [layer for layer in self.layers if isinstance(layer, Linear)]


class Field:
    """One scene. Points are (N, 3) in world units, any N, on any device. Results are float32 on the field's device.

    Sampling a plane is linear, and so is the decoder's first layer. So the layer is applied to the texels once for each
    scene and not to each point, and the samples of the three planes are only added. Outside the cube the planes are zero.
    """

    level = LEVEL
    """The density of the surface; inside it is higher."""

    @torch.no_grad()
    def __init__(self, code: Tensor, decoder: Decoder, config: Config, chunk: int | None = None) -> None:
        """Prepare the field of `code`, (3, C, side, side).

        `chunk`: points computed at a time, about 2 kB each. Each time the device's memory runs out it is halved.
        """
        first, *hidden, last = decoder.linears
        self.radius = config.radius
        self.device = code.device
        self.chunk = chunk or (CPU_CHUNK if self.device.type == "cpu" else GPU_CHUNK)
        self._density_bias = config.density_bias
        self._side = code.shape[-1]
        self._column = torch.tensor(COLUMN, device=self.device)
        self._row = torch.tensor(ROW, device=self.device)
        self._plane = torch.arange(3, dtype=torch.int32, device=self.device)[:, None] * self._side**2
        weight = first.weight.view(len(first.weight), 3, -1)  # (neurons, 3, C)
        # In double precision, since rounding here would be in each sample and would halve the precision of vertices; and
        # on the CPU, since not all devices have it.
        texels = np.matmul(  # (3, side², C) by (3, C, neurons)
            code.flatten(2).transpose(1, 2).cpu().numpy().astype(np.float64),
            weight.permute(1, 2, 0).cpu().numpy().astype(np.float64),
        )
        self._texels = torch.from_numpy(texels.astype(np.float32)).flatten(0, 1).to(self.device)
        self._first_bias = first.bias
        self._hidden = [(linear.weight, linear.bias) for linear in hidden]
        self._last_weight, self._last_bias = last.weight, last.bias

    def __call__(self, points: Points) -> tuple[Tensor, Tensor]:
        """Return density (N,) and colour (N, 3), as the methods of these names do."""
        raw = self.raw(points)
        return self._activate(raw[:, 0]), raw[:, 1:].sigmoid()

    def density(self, points: Points) -> Tensor:
        """Return (N,) densities above 0. A point is inside where it exceeds `level`."""
        return self._activate(self.raw_density(points))

    def color(self, points: Points) -> Tensor:
        """Return (N, 3) colours in 0..1, sRGB."""
        return self._decode(points, slice(1, 4)).sigmoid()

    def raw(self, points: Points) -> Tensor:
        """Return the decoder's output (N, 4): the density, whose activation is exp(raw + bias), and the colour."""
        return self._decode(points, slice(0, 4))

    def raw_density(self, points: Points) -> Tensor:
        """Return (N,) densities before their activation."""
        return self._decode(points, slice(0, 1))[:, 0]

    def _activate(self, raw: Tensor) -> Tensor:
        return (raw + self._density_bias).exp()

    @torch.no_grad()
    def _decode(self, points: Points, outputs: slice) -> Tensor:
        if not isinstance(points, Tensor):
            # Torch warns of read-only arrays, and does not accept negative strides.
            points = torch.from_numpy(np.require(points, requirements=["C", "W"]))
        if points.ndim != 2 or points.shape[1] != 3:
            raise ValueError(f"Points have the shape {tuple(points.shape)}, must be (N, 3).")
        while True:
            try:
                return self._decode_in_chunks(points, outputs)
            except torch.OutOfMemoryError:
                at_a_time = min(self.chunk, len(points))
                if at_a_time <= LEAST_CHUNK:
                    raise
            # Outside of the handler, because its traceback still holds the tensors.
            torch.cuda.empty_cache()
            self.chunk = at_a_time // 2

    def _decode_in_chunks(self, points: Tensor, outputs: slice) -> Tensor:
        weight, bias = self._last_weight[outputs], self._last_bias[outputs]
        decoded = torch.empty(len(points), len(weight), device=self.device)
        for chunk, out in zip(torch.split(points, self.chunk), torch.split(decoded, self.chunk), strict=True):
            x = self._sample(chunk.to(self.device, torch.float32))  # (n, neurons)
            x = F.silu(x.add_(self._first_bias), inplace=True)
            for hidden_weight, hidden_bias in self._hidden:
                x = F.silu(F.linear(x, hidden_weight, hidden_bias), inplace=True)
            torch.addmm(bias, x, weight.T, out=out)
        return decoded

    def _sample(self, points: Tensor) -> Tensor:
        """Return the sum of the three planes' bilinear samples: (n, 3) → (n, neurons).

        Each point has twelve texels around its three projections. `embedding_bag` adds them with their weights, in a
        quarter of the time of `grid_sample`, whose result would also have to be transposed.
        """
        side = self._side
        # In texels; the centre of the first one is 0. One texel outside of the plane and further all is zero.
        position = ((points.T / self.radius + 1) * (side / 2) - 0.5).clamp(-2, side + 1)  # (3, n)
        low = position.floor()
        part = position - low
        index = torch.stack([low, low + 1]).int()  # (2, 3, n)
        weight = torch.stack([1 - part, part]) * ((index >= 0) & (index < side))
        index = index.clamp(0, side - 1)
        column, row = index[:, self._column], index[:, self._row]  # (2, plane, n)
        texel = (self._plane + row * side)[:, None] + column  # (2, 2, plane, n)
        share = weight[:, self._row][:, None] * weight[:, self._column]
        return F.embedding_bag(
            texel.flatten(0, 2).T.contiguous(),  # (n, 12)
            self._texels,
            per_sample_weights=share.flatten(0, 2).T.contiguous(),
            mode="sum",
        )
