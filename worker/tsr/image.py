"""Photos of any size → the tensor that the tokenizer takes."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - as all of torch's world writes it
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

RgbImage = Image.Image | NDArray[np.uint8] | NDArray[np.floating]
"""RGB: a picture, or (H, W, 3) as uint8 or as floats in 0..1."""

GREY = 0.5  # what stood behind the cut-out objects of the training


def composite_on_grey(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 4) with straight alpha → (H, W, 3) before the grey that the network knows as background.

    Rounded down, as in training: the grey itself is 127.
    """
    unit = rgba.astype(np.float32) / 255
    alpha = unit[..., 3:]
    return ((unit[..., :3] * alpha + GREY * (1 - alpha)) * 255).astype(np.uint8)


def stack(images: Sequence[RgbImage], size: int) -> Tensor:
    """(B, size, size, 3) float32 in 0..1. What is not square is squashed, since the network was trained so.

    Raises: ValueError for an image that is not RGB; one with alpha belongs `composite_on_grey` first.
    """
    if not len(images):
        raise ValueError("There is no image to encode.")
    return torch.cat([_resize(_tensor(image), size) for image in images])


def _tensor(image: RgbImage) -> Tensor:
    if isinstance(image, Image.Image):
        if image.has_transparency_data:
            raise ValueError(f"An image of mode {image.mode} has alpha: put it on grey first.")
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
