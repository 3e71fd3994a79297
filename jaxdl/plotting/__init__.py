"""Arrays in, a matplotlib Figure out, without pyplot: nothing is shown, nothing is global.

matplotlib belongs to the extra `experiments` and is imported by the functions that draw.
"""

from jaxdl.plotting.animation import animate_paths, has_ffmpeg
from jaxdl.plotting.contours import Landscape, contour_levels, contours

__all__ = ["Landscape", "animate_paths", "contour_levels", "contours", "has_ffmpeg"]
