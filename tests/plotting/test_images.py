"""Images as they are stored, and brought back from a normalisation."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import data, plotting


def drawn(figure):
    return [axes.images[0].get_array() for axes in figure.axes]


def test_stored_images_are_drawn_as_they_are() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3)).astype(np.uint8)
    figure = plotting.images(pixels, ["a", "b", "c", "d", "e"], columns=3)
    for shown, stored in zip(drawn(figure), pixels, strict=True):
        np.testing.assert_allclose(shown, stored / 255, atol=1e-15)
    assert [axes.get_title() for axes in figure.axes] == list("abcde")


def test_normalised_images_come_back() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (3, 4, 4, 3)).astype(np.uint8)
    mean, std = data.image_statistics(pixels)
    normalised = np.asarray(data.normalize_images(mean, std)(jnp.asarray(pixels)))
    figure = plotting.images(normalised, mean=mean, std=std)
    for shown, stored in zip(drawn(figure), pixels, strict=True):
        np.testing.assert_allclose(shown, stored / 255, atol=1e-6)


def test_other_floats_are_stretched_and_it_is_said() -> None:
    figure = plotting.images(np.array([-1.0, 0.0, 3.0]).reshape(3, 1, 1))
    assert [float(shown[0, 0]) for shown in drawn(figure)] == [0, 0.25, 1]
    assert figure.get_supxlabel() == "from -1 (black) to 3 (white)"


def test_what_is_no_image_is_refused() -> None:
    for shape in ((5,), (0, 4, 4), (2, 4, 4, 2)):
        with pytest.raises(ValueError, match=r"images must be \(n, height, width\)"):
            plotting.images(np.zeros(shape))
    with pytest.raises(ValueError, match="a title for each image or none, got 1 for 2"):
        plotting.images(np.zeros((2, 3, 3)), ["one"])
    with pytest.raises(ValueError, match="given together"):
        plotting.images(np.zeros((2, 3, 3)), mean=0.5)
