"""One panel of a figure alone: with the labels, the legend and the colours' bar that it shared."""

import re
from typing import Any

from jaxdl.extras import import_extra
from jaxdl.plotting.lecture_legends import borrow_legend


def panels_in(figure: Any) -> list[Any]:
    """The panels of a figure, in order: axes with data, or parts of the figure with pictures.

    A picture without an axis, and the bar of a colour map, are no panels; pictures in a part of
    the figure (a SubFigure) make one panel with all that stands there. If there is nothing else,
    every picture is one.
    """
    bars = [bar.ax for bar in _colour_bars(figure)]
    drawn = [axes for axes in figure.axes if axes.has_data() and axes not in bars]
    with_pictures = [axes.figure for axes in drawn if not axes.axison and axes.figure is not figure]
    panels = [
        axes.figure if axes.figure in with_pictures else axes
        for axes in drawn
        if axes.axison or axes.figure in with_pictures
    ]
    return list(dict.fromkeys(panels)) or drawn


def panel_name(panel: Any) -> str:
    """A name for the panel's file: the words of its title, or of its label.

    Example:
        >>> from jaxdl.plotting import new_figure
        >>> axes = new_figure(4, 3).subplots()
        >>> _ = axes.set_title("Loss, rate $10^{-4}$")
        >>> panel_name(axes)
        'loss-rate-10-4'
    """
    if _is_part(panel):
        titles = (axes.get_title() for axes in panel.axes)
        said = panel.get_suptitle() or next(filter(None, titles), "")
    else:
        said = panel.get_title() or panel.get_ylabel() or panel.get_xlabel()
    words = re.findall(r"[a-z0-9]+", said.lower().replace("mathdefault", ""))
    return "-".join(words)[:40].strip("-") or "panel"


def keep_panel(figure: Any, panel: Any) -> None:
    """Remove from a figure all but one of its `panels_in`, which then fills it.

    What axes had from their neighbours they get themselves: the labels of a shared axis, the
    entries of a legend whose lines they have, the bar of their colour map.
    """
    part = panel if _is_part(panel) else panel.figure
    if part is not panel:
        _keep_axes(figure, panel)
    while part is not figure:  # a part may stand in a part
        outer = part._parent
        for other in [other for other in outer.subfigs if other is not part]:
            for axes in list(other.axes):
                axes.remove()
            outer.subfigs.remove(other)
        part._subplotspec = _whole(outer)
        part = outer


def _keep_axes(figure: Any, axes: Any) -> None:
    _take_labels(axes)
    borrow_legend(figure, axes)
    bar = _colour_bar_of(figure, axes)
    said = bar and (bar.ax.get_ylabel() or bar.ax.get_xlabel(), bar.extend)
    for other in _colour_bars(figure):
        other.remove()
    # An inset belongs to its axes; of two axes in one place neither stands alone.
    for other in [other for other in figure.axes if not _same_place(axes, other)]:
        other.remove()
    for own in axes.figure.axes:
        own.set_subplotspec(_whole(axes.figure))
    if said:
        axes.figure.colorbar(_mapped(axes)[0], ax=axes, label=said[0], extend=said[1])


def _is_part(panel: Any) -> bool:
    return not hasattr(panel, "get_xlabel")


def _whole(figure: Any) -> Any:
    """The place that fills a figure, or a part of it."""
    return import_extra("matplotlib.gridspec", "a figure").GridSpec(1, 1, figure=figure)[0]


def _same_place(axes: Any, other: Any) -> bool:
    """Whether they are the same axes, or twins, as `twinx` makes them."""
    if axes is other:
        return True
    spec = axes.get_subplotspec()
    return axes.figure is other.figure and spec is not None and spec == other.get_subplotspec()


def _take_labels(axes: Any) -> None:
    """Show what a shared axis shows beside another panel."""
    for name, shared, label, side in (
        ("x", axes.get_shared_x_axes(), "xlabel", "labelbottom"),
        ("y", axes.get_shared_y_axes(), "ylabel", "labelleft"),
    ):
        group = [other for other in shared.get_siblings(axes) if other is not axes]
        if not group:
            continue
        axis = getattr(axes, f"{name}axis")
        if not axis.get_tick_params().get(side, True):
            axes.tick_params(axis=name, which="both", **{side: True})
        if not axis.get_label().get_text():
            said = [getattr(other, f"get_{label}")() for other in group]
            axes.set(**{label: next(filter(None, said), "")})


def _mapped(axes: Any) -> list[Any]:
    """What is coloured by a colour map, the last drawn first."""
    return [
        artist
        for artist in reversed([*axes.images, *axes.collections])
        if artist.get_array() is not None
    ]


def _colour_bars(figure: Any) -> list[Any]:
    found = [artist.colorbar for axes in figure.axes for artist in _mapped(axes)]
    return list(dict.fromkeys(bar for bar in found if bar is not None))


def _colour_bar_of(figure: Any, axes: Any) -> Any:
    """The bar that explains the colours of a panel, its own or one for several; None if none."""
    for artist in _mapped(axes):
        for bar in _colour_bars(figure):
            if artist.colorbar is bar or (
                artist.get_cmap() == bar.mappable.get_cmap()
                and artist.get_clim() == bar.mappable.get_clim()
            ):
                return bar
    return None
