"""Images with the network's predictions, as one picture."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

_SIDE, _TEXT, _GAP, _COLUMNS = 96, 28, 6, 4
_RIGHT, _WRONG = (17, 105, 29), (176, 0, 32)


def is_image(inputs: np.ndarray) -> bool:
    """Whether a batch can be drawn: (batch, height, width, 1 or 3).

    Example:
        >>> is_image(np.zeros((5, 28, 28, 1))), is_image(np.zeros((5, 13)))
        (True, False)
    """
    return inputs.ndim == 4 and inputs.shape[-1] in (1, 3)


def predictions_picture(
    images: np.ndarray, scores: np.ndarray, targets: np.ndarray, classes: Sequence[str]
) -> UInt8[np.ndarray, "height width 3"]:
    """Each image above its predicted class, the score and, if wrong, the true class.

    Arguments:
        images: (batch, height, width, 1 or 3); types other than uint8 are rescaled from [smallest,
            largest] to 0..255.
        scores: (batch, classes), probabilities.
        targets: (batch,).
        classes: the classes' names.

    Returns:
        uint8 pixels, (height, width, 3).
    """
    from PIL import Image, ImageDraw

    font = _font("".join(classes))
    rows = -(-len(images) // _COLUMNS)
    cell = (_SIDE + _GAP, _SIDE + _TEXT + _GAP)
    sheet = Image.new("RGB", (_COLUMNS * cell[0], rows * cell[1]), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (image, score, target) in enumerate(
        zip(_as_bytes(images), scores, targets, strict=True)
    ):
        left, top = (index % _COLUMNS) * cell[0], (index // _COLUMNS) * cell[1]
        pixels = Image.fromarray(np.broadcast_to(image, (*image.shape[:2], 3)).copy())
        sheet.paste(pixels.resize((_SIDE, _SIDE), Image.Resampling.NEAREST), (left, top))
        decision = int(score.argmax())
        right = decision == int(target)
        lines = f"{classes[decision]} {100 * score[decision]:.0f} %"
        if not right:
            lines += f"\nis {classes[int(target)]}"
        colour = _RIGHT if right else _WRONG
        draw.multiline_text((left, top + _SIDE), lines, fill=colour, font=font, spacing=0)
    return np.asarray(sheet)


@functools.cache
def _font(text: str) -> Any:
    from PIL import ImageFont

    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return ImageFont.load_default()
    # This font is drawn in a fifth of the time.
    return ImageFont.load_default_imagefont()


def _as_bytes(images: np.ndarray) -> np.ndarray:
    if images.dtype == np.uint8:
        return images
    values = np.nan_to_num(images.astype(np.float64))
    low, high = values.min(), values.max()
    stretched: np.ndarray = (255 * (values - low) / max(high - low, 1e-12)).astype(np.uint8)
    return stretched
