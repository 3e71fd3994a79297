"""The picture of the norms' axes, held against what the norms themselves average."""

import re

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxdl.layers import BatchNorm
from jaxdl.plotting import new_figure, normalization_axes
from jaxdl.plotting.normalization_axes import NORMS, statistic_of

N, C, HEIGHT, WIDTH, GROUPS = 3, 6, 2, 2, 2
SHAPE = N, C, HEIGHT * WIDTH
LAYERS = {
    "Batch norm": [(BatchNorm(), {"train": True}), (nn.BatchNorm(use_running_average=False), {})],
    "Layer norm": [
        (nn.LayerNorm(reduction_axes=(-3, -2, -1)), {}),
        (nn.GroupNorm(num_groups=1), {}),
    ],
    "Instance norm": [(nn.InstanceNorm(), {}), (nn.GroupNorm(num_groups=C), {})],
    "Group norm": [(nn.GroupNorm(num_groups=GROUPS), {})],
}
CASES = [(norm, *layer) for norm in NORMS for layer in LAYERS[norm.title]]


@pytest.mark.parametrize(
    ("norm", "layer", "settings"), CASES, ids=[f"{c[0].title}-{type(c[1]).__name__}" for c in CASES]
)
def test_the_sets_are_those_whose_statistics_a_norm_computes(norm, layer, settings):
    """An output depends on an input if and only if both belong to one statistic.

    Derivatives say so: the Jacobian's entry is 0 exactly where no statistic joins the two.
    """
    x = jax.random.normal(jax.random.key(0), (N, HEIGHT, WIDTH, C))
    variables = layer.init(jax.random.key(1), x, **settings)

    def outputs(entries):
        """In the picture's order: example, channel, position."""
        images = entries.reshape(N, C, HEIGHT, WIDTH).transpose(0, 2, 3, 1)
        normalised, _ = layer.apply(variables, images, **settings, mutable=["batch_stats"])
        return normalised.transpose(0, 3, 1, 2).ravel()

    entries = x.transpose(0, 3, 1, 2).ravel()
    depends = np.asarray(jax.jacobian(outputs)(entries)) != 0
    statistic = statistic_of(norm, SHAPE, GROUPS).ravel()
    np.testing.assert_array_equal(depends, statistic[:, None] == statistic)


def coloured(axes):
    """How many cells of the three faces are coloured, of how many."""
    faces, *_ = axes.collections
    colours = np.asarray(faces.get_facecolors())
    return (colours[:, 2] > 1.5 * colours[:, 0]).sum(), len(colours)


def test_the_coloured_cells_are_one_set_as_it_shows_on_three_faces():
    figure = normalization_axes(examples=3, channels=6, positions=4, groups=2)
    visible = 6 * 4 + 3 * 4 + 3 * 6
    # By norm: of the faces (channel, position), (example, position) and (example, channel).
    expected = {
        "Batch norm": 4 + 3 * 4 + 3,
        "Layer norm": 6 * 4 + 4 + 6,
        "Instance norm": 4 + 4 + 1,
        "Group norm": 3 * 4 + 4 + 3,
    }
    for axes in figure.axes:
        assert coloured(axes) == (expected[axes.get_title().split("\n")[0]], visible)


def test_the_titles_say_what_the_mean_is_over():
    figure = normalization_axes(groups=3)
    assert [axes.get_title().split("\n")[1] for axes in figure.axes] == [
        "mean over N, H, W", "mean over C, H, W", "mean over H, W", "mean over C/3, H, W"
    ]  # fmt: skip


def test_it_draws_in_given_axes_and_its_words_stay_inside():
    figure = new_figure(12, 4)
    axes = list(figure.subplots(1, 4))
    assert normalization_axes(axes) is figure
    figure = normalization_axes(axes=None)
    figure.draw_without_rendering()
    for panel in figure.axes:
        frame = panel.get_window_extent()
        names = [text.get_window_extent() for text in panel.texts]
        assert len(names) == 3
        for box in names:
            assert frame.x0 <= box.x0
            assert box.x1 <= frame.x1
            assert frame.y0 <= box.y0
            assert not panel.title.get_window_extent().overlaps(box)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"channels": 5}, "5 channels in 2 groups"),
        ({"examples": 0}, "examples must be at least 1, got 0"),
        ({"axes": []}, "axes must be 4, one for each norm, got 0"),
    ],
)
def test_refuses(settings, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        normalization_axes(**settings)
