"""Views in the published recipes' own arithmetic: PIL images and torchvision's functions, one step after another.

The truth that ``fast_views`` and ``device_views`` are compared with, and the input that a reference step pays for.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter
from torchvision.transforms import functional as F

from seed_hub.training.view_parameters import ViewParameters

_ADJUST = {
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "saturation": F.adjust_saturation,
    "hue": F.adjust_hue,
}


def reference_view(image: Image.Image, parameters: ViewParameters) -> np.ndarray:
    """The view of the whole RGB image: uint8 ``[3, S, S]``."""
    left, top, width, height = parameters.box
    side = (parameters.size, parameters.size)
    # Cut and resized in one antialiased step, as torchvision's RandomResizedCrop.
    view = image.resize(side, Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
    for name, factor in parameters.colour:
        view = _ADJUST[name](view, factor)
    if parameters.grey:
        view = F.rgb_to_grayscale(view, num_output_channels=3)
    if parameters.blur_sigma:
        view = view.filter(ImageFilter.GaussianBlur(parameters.blur_sigma))
    if parameters.solarise:
        view = F.solarize(view, 128)
    pixels = np.asarray(view).transpose(2, 0, 1)
    return np.ascontiguousarray(pixels[:, :, ::-1] if parameters.flip else pixels)
