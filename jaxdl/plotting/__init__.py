"""Draw arrays as a matplotlib Figure, without pyplot: nothing is shown, nothing is global.

matplotlib belongs to the extra `experiments`. Only the functions that draw import it.
"""

from jaxdl.plotting.animation import animate_paths, has_ffmpeg
from jaxdl.plotting.contours import Landscape, contour_levels, contours
from jaxdl.plotting.figure import new_figure

__all__ = ["Landscape", "animate_paths", "contour_levels", "contours", "has_ffmpeg", "new_figure"]
