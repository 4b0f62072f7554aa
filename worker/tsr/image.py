"""Photos of any size → the tensor for the image tokenizer."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - as all of torch's world writes it
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

RgbImage = Image.Image | NDArray[np.uint8] | NDArray[np.floating]
"""An RGB photo: a PIL image, or (H, W, 3) as uint8 or as floats in 0..1."""

GREY = 0.5  # the background of the training's objects


def composite_on_grey(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Composite (H, W, 4) uint8 with straight alpha on the grey background of the training → (H, W, 3) uint8.

    Values are rounded down, as in training: the grey itself is 127.
    """
    unit = rgba.astype(np.float32) / 255
    alpha = unit[..., 3:]
    return ((unit[..., :3] * alpha + GREY * (1 - alpha)) * 255).astype(np.uint8)


def stack(images: Sequence[RgbImage], size: int) -> Tensor:
    """Resize photos and stack them: (B, size, size, 3) float32 in 0..1. One that is not square is squashed, as in training.

    Raises: ValueError for an image that is not RGB, and for none at all. Use `composite_on_grey` for one with alpha.
    """
    if not len(images):
        raise ValueError("There is no image to encode.")
    return torch.cat([_resize(_tensor(image), size) for image in images])


def _tensor(image: RgbImage) -> Tensor:
    if isinstance(image, Image.Image):
        if image.has_transparency_data:
            raise ValueError(f"An image of mode {image.mode} has alpha: use composite_on_grey first.")
        image = np.asarray(image.convert("RGB"))
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(f"An image has the shape {array.shape}, must be (height, width, 3).")
    if array.dtype == np.uint8:
        return torch.from_numpy(np.array(array, np.float32, order="C") / 255)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"An image is of {array.dtype}, must be uint8 or floats in 0..1.")
    return torch.from_numpy(np.array(array, np.float32, order="C"))


def _resize(image: Tensor, size: int) -> Tensor:
    planes = image.permute(2, 0, 1)[None]  # (1, 3, H, W)
    planes = F.interpolate(planes, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return planes.permute(0, 2, 3, 1)  # (1, size, size, 3)
