"""Images in files, each decoded when it is read."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxdl.data.types import DataError

# What Pillow opens with one colour of 8 bits or less in each channel, or converts to it exactly.
_MODES = ("1", "L", "P", "LA", "PA", "La", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr")


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """A source of labelled images: `files[i]` opens and decodes file i, `targets` opens none.

    Arguments:
        paths: the files.
        targets: (n,) int32, the label of each.
        size: (height, width) of the images in pixels.
        resize: whether to bring an image to this size, or refuse one that has another.
        crop: whether resizing keeps the proportions, and cuts off what is too long.
        grey: whether the images have 1 channel, the brightness, or the 3 of RGB.
    """

    paths: tuple[str, ...]
    targets: np.ndarray
    size: tuple[int, int]
    resize: bool = True
    crop: bool = False
    grey: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> dict[str, Any]:
        path = self.paths[index]
        pixels = read_image(path, self.size if self.resize else None, self.crop, self.grey)
        if pixels.shape[:2] != self.size:
            raise DataError(
                f"images must have one size, {self.size[0]} x {self.size[1]} (height x width) as "
                f"the first, got {pixels.shape[0]} x {pixels.shape[1]} in {path}; pass "
                f"size=({self.size[0]}, {self.size[1]}), or another, to resize them"
            )
        return {"inputs": pixels, "targets": self.targets[index]}


def read_image(
    path: str, size: tuple[int, int] | None = None, crop: bool = False, grey: bool = False
) -> np.ndarray:
    """Decode one image: uint8 of shape (height, width, 3), or 1 channel if `grey`.

    The orientation that a camera noted (EXIF) is applied. Of a file with a preview (MPO) the main
    picture is taken. Resizing is bilinear; where it shrinks, each pixel averages those that it
    covers.

    Arguments:
        path: the file.
        size, crop, grey: as for `ImageFiles`; None for the size of the file.

    Raises:
        DataError: a file that is missing, damaged or no image, one of several frames, or of more
            than 8 bits a channel.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            frames = getattr(opened, "n_frames", 1) if opened.format != "MPO" else 1
            deep = opened.mode not in _MODES or any(";16" in str(tile[3]) for tile in opened.tile)
            mode = opened.mode
            if not deep and frames == 1:
                pixels = _decoded(ImageOps.exif_transpose(opened), size, crop, grey)
    except Exception as error:  # Pillow raises a dozen kinds for damage
        raise DataError(
            f"{path} must be a whole image that Pillow can read, got {type(error).__name__}: "
            f"{error}; copy it again, or remove it"
        ) from error
    if frames > 1:
        raise DataError(
            f"{path} must hold one picture, got {frames} frames; save the frame that you want as "
            "an image of its own"
        )
    if deep:
        raise DataError(
            f"{path} must have 8 bits a channel, got an image of more ({mode}); convert it to 8 "
            "bits, or read it in a source of your own"
        )
    return pixels


def _decoded(image: Any, size: tuple[int, int] | None, crop: bool, grey: bool) -> np.ndarray:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns of the direct way
    image = image.convert("L" if grey else "RGB")
    if size is not None and image.size != size[::-1]:
        from PIL import Image, ImageOps

        bilinear = Image.Resampling.BILINEAR
        image = (
            ImageOps.fit(image, size[::-1], method=bilinear)
            if crop
            else image.resize(size[::-1], bilinear)
        )
    pixels = np.array(image, np.uint8)
    return pixels[..., None] if grey else pixels
