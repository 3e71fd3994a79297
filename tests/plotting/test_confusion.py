"""What a confusion matrix says in its cells, and how it tells the diagonal apart."""

import re

import numpy as np
import pytest

from jaxdl import metrics
from jaxdl.plotting import confusion_matrix, new_figure

NAMES = ["coat", "dress", "shirt"]
TARGETS = np.repeat([0, 1, 2], [1000, 10, 4])
PREDICTIONS = np.concatenate([[1] * 3, [0] * 997, [1] * 8, [2] * 2, [0, 2, 2, 2]])
COUNTS = metrics.confusion(TARGETS, PREDICTIONS)


def drawn(counts=COUNTS, names=NAMES, **settings):
    axes = new_figure(4, 4).subplots()
    return axes, confusion_matrix(axes, counts, names, **settings)


def cells(axes):
    """The words by (row, column)."""
    return {text.get_position()[::-1]: text.get_text() for text in axes.texts}


def test_rows_are_true_classes_and_say_their_shares_in_percent():
    axes, _ = drawn()
    assert cells(axes) == {
        (0, 0): ">99", (0, 1): "<1", (1, 1): "80", (1, 2): "20", (2, 0): "25", (2, 2): "75"
    }  # fmt: skip
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    for axis in (axes.xaxis, axes.yaxis):
        assert [label.get_text() for label in axis.get_ticklabels()] == NAMES
    # The first row is the topmost one.
    assert axes.yaxis_inverted()


def test_counts_can_be_shown_and_classes_numbered():
    axes, _ = drawn(names=(), shares=False)
    assert cells(axes)[0, 0] == "997"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1", "2"]


def test_right_is_blue_and_wrong_is_orange_and_more_is_darker():
    _, image = drawn()
    red, _, blue, _ = np.moveaxis(np.asarray(image.get_array()), -1, 0)
    on, off = np.eye(3, dtype=bool), ~np.eye(3, dtype=bool) & (COUNTS > 0)
    assert (blue[on] > red[on]).all()
    assert (red[off] > blue[off]).all()
    assert (np.asarray(image.get_array())[COUNTS == 0] == 1).all()
    # Shares 0.003, 0.2 and 0.25: the blue of an orange falls with the share.
    assert blue[0, 1] > blue[1, 2] > blue[2, 0]


def test_numbers_can_be_read_on_their_cells():
    """The contrast of the Web Content Accessibility Guidelines, at least 4.5, for every share."""

    def relative_luminance(colour):
        linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    for share in range(1, 100):
        axes, image = drawn([[share, 100 - share], [100 - share, share]], ())
        for (row, column), text in zip(np.ndindex(2, 2), axes.texts, strict=True):
            cell = relative_luminance(np.asarray(image.get_array())[row, column, :3])
            ink = 1.0 if text.get_color() == "w" else 0.0
            assert (max(cell, ink) + 0.05) / (min(cell, ink) + 0.05) >= 4.5, (share, row, column)


def test_a_class_without_examples_has_an_empty_row():
    axes, image = drawn([[3, 1], [0, 0]], ["a", "b"])
    assert cells(axes) == {(0, 0): "75", (0, 1): "25"}
    assert np.isfinite(image.get_array()).all()


def test_many_classes_have_no_numbers():
    assert len(drawn(np.eye(20), ())[0].texts) == 20
    assert not drawn(np.eye(21), ())[0].texts


@pytest.mark.parametrize(
    ("counts", "names", "words"),
    [
        (np.ones((2, 3)), (), "square table (classes, classes), got the shape (2, 3)"),
        (np.ones(4), (), "got the shape (4,)"),
        (np.ones((0, 0)), (), "got the shape (0, 0)"),
        ([[1, -1], [0, 1]], (), "at least 0, got -1.0"),
        ([[1, np.nan], [0, 1]], (), "must be finite"),
        (np.eye(2), ["a"], "a name for each class or none, got 1 for 2"),
    ],
)
def test_refuses(counts, names, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        drawn(counts, names)
