"""Draw arrays as a matplotlib Figure, without pyplot: nothing is shown, nothing is global.

matplotlib belongs to the extra `experiments`. Only the functions that draw import it.
"""

from jaxdl.plotting.animation import animate_paths, has_ffmpeg
from jaxdl.plotting.bands import band
from jaxdl.plotting.confusion import confusion_matrix
from jaxdl.plotting.contours import Landscape, contour_levels, contours
from jaxdl.plotting.curvature import density_figure, eigenvalue_figure
from jaxdl.plotting.curves import learning_curves
from jaxdl.plotting.figure import new_figure, save_figure
from jaxdl.plotting.images import images
from jaxdl.plotting.kernels import kernel_figure
from jaxdl.plotting.noise_scales import noise_figure, ratio_figure
from jaxdl.plotting.normalization_axes import normalization_axes
from jaxdl.plotting.signal import attention_figure, signal_figure
from jaxdl.plotting.singular_values import singular_values_figure
from jaxdl.plotting.width_curves import width_curves
from jaxdl.public import public_names

__all__ = [
    "Landscape",
    "animate_paths",
    "attention_figure",
    "band",
    "confusion_matrix",
    "contour_levels",
    "contours",
    "density_figure",
    "eigenvalue_figure",
    "has_ffmpeg",
    "images",
    "kernel_figure",
    "learning_curves",
    "new_figure",
    "noise_figure",
    "normalization_axes",
    "ratio_figure",
    "save_figure",
    "signal_figure",
    "singular_values_figure",
    "width_curves",
]

__dir__ = public_names(globals())
