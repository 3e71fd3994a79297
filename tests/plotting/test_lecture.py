"""Figures at lecture size: how large the text is, what a panel alone has, what is wrapped."""

import itertools

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from jaxdl.plotting import new_figure
from jaxdl.plotting.lecture import LINES, lecture_figure, lecture_panels, save_lecture_figure
from jaxdl.plotting.lecture_text import wrap

LONG = "The mean square of the activations of a network with fifty layers, $v_1 / v_2$ each"


def crowded():
    """Two panels that share their rows, with small text, a long title and one legend."""
    figure = new_figure(12, 3)
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, title in ((left, LONG), (right, "Short")):
        axes.plot([0, 1], [0, 1], "C0-", label="one", lw=1)
        axes.plot([0, 1], [1, 0], "C1--", label="two", lw=1)
        axes.set(title=title, xlabel="step")
        axes.set_xticks(np.linspace(0, 1, 40), [f"{tick:.3f}" for tick in np.linspace(0, 1, 40)])
        axes.tick_params(labelsize=4)
    left.set_ylabel("loss", fontsize=5)
    left.legend(fontsize=6, loc="lower left")
    return figure


def with_parts():
    """A figure of two parts, with a picture, a colour bar for both grids, and a legend for all."""
    figure = new_figure(8, 8)
    top, bottom = figure.subfigures(2, 1)
    picture, curve = top.subplots(1, 2)
    picture.imshow(np.eye(3))
    picture.set_axis_off()
    curve.plot([0, 1], [0, 1], label="a curve")
    curve.set_title("A curve")
    grids = bottom.subplots(1, 2)
    for axes, name in zip(grids, ("first", "second"), strict=True):
        shown = axes.imshow(np.eye(3), vmin=0, vmax=2)
        axes.set_title(name)
    bottom.colorbar(shown, ax=list(grids), label="height")
    bottom.suptitle("Two grids")
    return figure


def texts_of(figure):
    figure.draw_without_rendering()
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


@pytest.mark.parametrize("plot", [crowded, with_parts])
def test_every_text_is_a_thirtieth_of_the_height_whole_and_alone(plot):
    for figure in (lecture_figure(plot), *(panel for _, panel in lecture_panels(plot))):
        width, height = figure.get_size_inches()
        assert width / height == pytest.approx(16 / 9)
        sizes = [text.get_fontsize() / (72 * height) for text in texts_of(figure)]
        assert len(sizes) > 3
        assert min(sizes) >= 1 / LINES - 1e-12


@pytest.mark.parametrize("plot", [crowded, with_parts])
def test_nothing_leaves_the_sheet(plot):
    for figure in (lecture_figure(plot), *(panel for _, panel in lecture_panels(plot))):
        figure.draw_without_rendering()
        box, sheet = figure.get_tightbbox(), figure.bbox_inches
        inside = (box.x0 >= -0.03, box.y0 >= -0.03)
        inside += (box.x1 <= sheet.x1 + 0.03, box.y1 <= sheet.y1 + 0.03)
        assert inside == (True,) * 4


def test_lines_are_thicker_than_in_the_usual_figure():
    usual, talk = crowded(), lecture_figure(crowded)
    relative = [
        figure.axes[0].lines[0].get_linewidth() / figure.get_figheight() for figure in (usual, talk)
    ]
    assert relative[1] > 1.2 * relative[0]


def test_the_files_are_full_hd_and_svg(tmp_path):
    figure = lecture_figure(crowded)
    with Image.open(save_lecture_figure(figure, tmp_path / "a.png")) as picture:
        assert picture.size == (1920, 1080)
    svgs = [save_lecture_figure(lecture_figure(crowded), tmp_path / f"{n}.svg") for n in "ab"]
    assert svgs[0].read_bytes() == svgs[1].read_bytes()


def test_ticks_keep_off_each_other():
    figure = lecture_figure(crowded)
    figure.draw_without_rendering()
    labels = [label for label in figure.axes[0].get_xticklabels() if label.get_visible()]
    boxes = [label.get_window_extent() for label in labels]
    assert 3 < len(boxes) < 40
    assert all(one.x1 <= other.x0 for one, other in itertools.pairwise(boxes))


def test_a_panel_alone_gets_what_its_neighbour_showed():
    names, panels = zip(*lecture_panels(crowded), strict=True)
    assert names[1] == "short"
    second = panels[1].axes[0]
    assert len(panels[1].axes) == 1
    assert second.get_title() == "Short"
    assert second.get_ylabel() == "loss"
    assert any(label.get_visible() and label.get_text() for label in second.get_yticklabels())
    assert [text.get_text() for text in second.get_legend().get_texts()] == ["one", "two"]
    # It fills the sheet.
    assert second.get_position().width > 0.75


def test_panels_of_parts_and_a_shared_colour_bar():
    panels = list(lecture_panels(with_parts))
    assert [name for name, _ in panels] == ["a-curve", "first", "second"]
    for _, panel in panels[1:]:
        grid, bar = panel.axes
        assert bar.get_ylabel() == "height"
        assert grid.images[0].colorbar.ax is bar
        assert [text.get_text() for text in texts_of(panel)].count("Two grids") == 1
    # What stands beside a picture stays with it.
    assert len(panels[0][1].axes) == 2
    assert "Two grids" not in [text.get_text() for text in texts_of(panels[0][1])]


def in_a_row():
    """Four panels of one row, each with a legend of its own in the same styles."""
    figure = new_figure(16, 4)
    for number, axes in enumerate(figure.subplots(1, 4)):
        for name, style in (("table", "C0-"), ("quadrature", "C1--")):
            axes.errorbar(
                [0, 1],
                [number, 2],
                0.1,
                fmt=style,
                label=f"{name}, {number}.5 of gains, a long label",
            )
        axes.legend(loc="center")
    return figure


def test_many_panels_in_a_row_stand_in_two_and_share_a_legend():
    figure = lecture_figure(in_a_row)
    figure.draw_without_rendering()
    boxes = [axes.get_position() for axes in figure.axes]
    assert len({round(box.y0, 6) for box in boxes}) == 2
    assert len({round(box.x0, 6) for box in boxes}) == 2
    assert [axes.get_legend() for axes in figure.axes] == [None] * 4
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["table", "quadrature"]
    below = legend.get_window_extent().y1
    assert all(below < axes.get_window_extent().y0 for axes in figure.axes)
    alone = [panel.axes[0].get_legend().get_texts() for _, panel in lecture_panels(in_a_row)]
    labels = [text.get_text() for text in alone[3]]
    assert labels == [f"{name}, 3.5 of gains, a long label" for name in ("table", "quadrature")]


def many():
    """Thirty small panels with titles of two lines."""
    figure = new_figure(15, 11)
    for number, axes in enumerate(figure.subplots(5, 6).flat):
        axes.plot([0, 1], [0, number])
        axes.set(title=f"kind {number}\ng = {number}, and more", xlabel="input", ylabel="output")
    return figure


def test_of_many_panels_each_has_everything_alone():
    assert lecture_figure(many) is None
    _, panel = next(lecture_panels(many))
    assert panel.axes[0].get_title() == "kind 0\ng = 0, and more"
    assert panel.axes[0].get_xlabel() == "input"


def nested():
    figure = new_figure(12, 12)
    top, bottom = figure.subfigures(2, 1)
    top.subplots().plot([0, 1], [0, 1])
    left, right = bottom.subfigures(1, 2)
    for part, title in ((left, "left"), (right, "right")):
        part.suptitle(title)
        axes = part.subplots()
        axes.imshow(np.eye(3))
        axes.set_axis_off()
    return figure


def test_a_part_inside_a_part_is_a_panel_that_fills_the_sheet():
    panels = dict(lecture_panels(nested))
    assert list(panels)[1:] == ["left", "right"]
    for panel in list(panels.values())[1:]:
        (axes,) = panel.axes
        panel.draw_without_rendering()
        assert axes.images
        assert axes.get_window_extent().height > 0.7 * panel.bbox.height


def test_a_formula_is_not_broken():
    figure = new_figure(4, 3)
    text = figure.text(0, 0.5, LONG)
    wide = text.get_window_extent().width
    wrap(text, wide / 4)
    lines = text.get_text().split("\n")
    assert " ".join(lines) == LONG
    assert 4 <= len(lines) <= 8
    assert "$v_1 / v_2$" in text.get_text()
