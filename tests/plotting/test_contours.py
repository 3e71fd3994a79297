"""What a figure of contours shows: heights the right way round, paths, start and minimum."""

import re
from typing import Any

import numpy as np
import pytest

from jaxdl.plotting import Landscape, contour_levels, contours, new_figure
from jaxdl.plotting.contours import path_styles

X, Y = np.linspace(-2.0, 2.0, 9), np.linspace(-1.0, 3.0, 5)
TILTED = X[:, None] + 10 * Y
PATHS = {
    "sgd": np.array([[1.0, 2.0], [0.5, 1.0], [0.0, 0.0]]),
    "adam": np.array([[1.0, 2.0], [0.0, 0.0]]),
}


def lines_of(axes: Any, marker: str, face: str | None = None) -> list[Any]:
    return [
        line
        for line in axes.get_lines()
        if line.get_marker() == marker and face in (None, line.get_markerfacecolor())
    ]


def test_paths_start_and_minimum_are_where_they_should_be():
    other = Landscape(X, Y, TILTED, {"adam": PATHS["adam"] + 0.5}, title="other")
    panel = Landscape(X, Y, TILTED, PATHS, [(0.0, 0.5)], title="one", x_label="x (m)")
    figure = contours(panel, other)
    first, second = figure.axes
    assert (first.get_title(), second.get_title()) == ("one", "other")
    assert (first.get_xlabel(), first.get_ylabel()) == ("x (m)", "y")
    assert (first.get_xlim(), first.get_ylim()) == ((-2.0, 2.0), (-1.0, 3.0))
    styles = path_styles([panel, other])
    for axes, landscape in ((first, panel), (second, other)):
        for name, path in landscape.paths.items():
            (line,) = lines_of(axes, styles[name]["marker"], styles[name]["color"])
            np.testing.assert_array_equal(line.get_xydata(), path)
    (star,) = lines_of(first, "*")
    np.testing.assert_array_equal(star.get_xydata(), [[0.0, 0.5]])
    (ring,) = lines_of(first, "o", "none")  # once for both paths
    np.testing.assert_array_equal(ring.get_xydata(), [[1.0, 2.0]])
    assert not lines_of(second, "*")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["sgd", "adam", "start", "minimum"]


def test_legend_and_panels_do_not_overlap():
    names = [f"optimizer {i}" for i in range(8)]
    panel = Landscape(X, Y, TILTED, dict.fromkeys(names, PATHS["sgd"]), title="one")
    figure = contours(panel, panel)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    page = figure.bbox
    assert page.x0 <= box.x0
    assert box.x1 <= page.x1
    panels: Any = figure.axes
    for axes in panels:
        assert axes.get_tightbbox().y0 >= box.y1


def test_labels_stand_below_their_own_panel_and_take_a_path_out_of_the_common_legend():
    """As many panels as have labels; the figure may be a part of another one."""
    labelled = Landscape(X, Y, TILTED, PATHS, labels={"sgd": "sgd, rate 0.1"})
    plain = Landscape(X, Y, TILTED, {"sgd": PATHS["sgd"]})
    whole = new_figure(9, 8)
    above, _ = whole.subfigures(2, 1)
    assert contours(labelled, labelled, figure=above) is above
    for axes in above.axes:
        (text,) = axes.get_legend().get_texts()
        assert text.get_text() == "sgd, rate 0.1"
        (sample,) = axes.get_legend().get_lines()
        assert sample.get_color() == path_styles([labelled])["sgd"]["color"]
    (common,) = above.legends
    assert [text.get_text() for text in common.get_texts()] == ["adam", "start", "minimum"]
    # A path that one panel leaves without a label stays in the common legend.
    (common,) = contours(labelled, plain).legends
    assert [text.get_text() for text in common.get_texts()][:2] == ["sgd", "adam"]


def test_the_first_axis_of_the_heights_is_x():
    """A surface that depends on y alone has contours that are level."""
    figure = contours(Landscape(X, Y, np.broadcast_to(Y, (9, 5))))
    drawn: Any = figure.axes[0].collections[1]
    heights = [path.vertices[:, 1] for path in drawn.get_paths() if len(path.vertices)]
    assert len(heights) >= 10
    assert all(np.ptp(each) < 1e-12 for each in heights)


def test_twelve_paths_can_be_told_apart_in_grey():
    paths = {str(i): PATHS["sgd"] for i in range(12)}
    styles = path_styles([Landscape(X, Y, TILTED, paths)])
    assert len({style["marker"] for style in styles.values()}) == 12


def test_levels_are_logarithmic_where_heights_span_decades():
    steep = -3.0 + np.geomspace(1e-2, 1e4, 1000)
    levels = contour_levels(np.append(steep, [-3.0, np.nan, np.inf]), count=8)
    assert len(levels) == 8
    ratios = (levels[1:] + 3.0)[1:] / (levels[1:] + 3.0)[:-1]
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-9)
    assert ratios[0] > 4
    np.testing.assert_allclose(levels[-1], 1e4 - 3, rtol=1e-12)
    flat = contour_levels(10 + np.linspace(0.0, 1.0, 1000) ** 0.5, count=8)
    np.testing.assert_allclose(np.diff(flat), 1 / 7, rtol=1e-9)


def test_markers_stand_at_equal_lengths_of_the_path():
    slow = np.stack([np.append(np.linspace(0, 0.1, 90), np.linspace(0.2, 1.8, 9))] * 2, axis=1)
    panel = Landscape(X, Y, TILTED, {"slow": slow})
    figure = contours(panel)
    (line,) = lines_of(figure.axes[0], "o", path_styles([panel])["slow"]["color"])
    marked = slow[line.get_markevery(), 0]
    # Ten places on a length of 1.8, each at the next point, which are 0.2 apart.
    assert len(marked) >= 8
    assert np.all(np.diff(marked) <= 0.18 + 0.2)
    assert marked[-1] == slow[-1, 0]


def test_heights_and_points_that_are_not_finite_are_left_out():
    heights = TILTED.copy()
    heights[0, 0], heights[1, 1] = np.nan, np.inf
    path = np.array([[0.0, 0.0], [1.0, np.inf], [np.nan, 0.0]])
    figure = contours(Landscape(X, Y, heights, {"diverged": path}))
    figure.draw_without_rendering()
    assert figure.axes


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (contours, "at least one panel, got none"),
        (lambda: Landscape(X, Y, TILTED.T), "(9, 5), got (5, 9)"),
        (lambda: Landscape(X, Y, TILTED, {"a": np.zeros((0, 2))}), "got (0, 2) for 'a'"),
        (
            lambda: Landscape(X, Y, TILTED, PATHS, labels={"Adam": "x"}),
            "got labels of ['Adam'] for the paths ['adam', 'sgd']",
        ),
        (lambda: contours(Landscape(X, Y, np.ones((9, 5)))), "two different finite values"),
        (lambda: contour_levels(np.array([np.nan])), "two different finite values"),
        (lambda: contour_levels(TILTED, count=1), "at least 2 levels, got 1"),
    ],
)
def test_refuses(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()
