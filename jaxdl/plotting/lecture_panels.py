"""One panel of a figure alone: with the labels, the legend and the colours' bar that it shared."""

import re
from typing import Any

from jaxdl.extras import import_extra


def panels_in(figure: Any) -> list[Any]:
    """The axes of a figure that are panels: with data and an axis, in reading order.

    A picture without an axis, and the bar of a colour map, are no panels; if there is nothing
    else, every picture is one.
    """
    bars = [bar.ax for bar in _colour_bars(figure)]
    drawn = [axes for axes in figure.axes if axes.has_data() and axes not in bars]
    return [axes for axes in drawn if axes.axison] or drawn


def panel_name(axes: Any) -> str:
    """A name for the panel's file: the words of its title, or of its label.

    Example:
        >>> from jaxdl.plotting import new_figure
        >>> axes = new_figure(4, 3).subplots()
        >>> _ = axes.set_title("Loss, rate $10^{-4}$")
        >>> panel_name(axes)
        'loss-rate-10-4'
    """
    said = axes.get_title() or axes.get_ylabel() or axes.get_xlabel()
    words = re.findall(r"[a-z0-9]+", said.lower().replace("mathdefault", ""))
    return "-".join(words)[:40].strip("-") or "panel"


def keep_panel(figure: Any, axes: Any) -> None:
    """Remove from a figure all but one panel, which then fills it.

    What it had from its neighbours it gets itself: the labels of a shared axis, the entries of a
    legend whose lines it has, the bar of its colour map.
    """
    _take_labels(axes)
    _take_legend(figure, axes)
    bar = _colour_bar_of(figure, axes)
    said = bar and (bar.ax.get_ylabel() or bar.ax.get_xlabel(), bar.extend)
    for other in _colour_bars(figure):
        other.remove()
    for other in [other for other in figure.axes if other is not axes]:
        # An inset belongs to its axes; of two axes in one place neither stands alone.
        if not _same_place(axes, other):
            other.remove()
    grid_spec = import_extra("matplotlib.gridspec", "a figure").GridSpec
    part = axes.figure
    if part is not figure:
        for other in [other for other in figure.subfigs if other is not part]:
            figure.subfigs.remove(other)
        part._subplotspec = grid_spec(1, 1, figure=figure)[0]
    for own in part.axes:
        own.set_subplotspec(grid_spec(1, 1, figure=part)[0])
    if said:
        part.colorbar(_mapped(axes)[0], ax=axes, label=said[0], extend=said[1])


def _same_place(axes: Any, other: Any) -> bool:
    """Whether two axes are twins, as `twinx` makes them."""
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


def _take_legend(figure: Any, axes: Any) -> None:
    if axes.get_legend() is not None or axes.figure.legends or figure.legends:
        return
    handles, labels = axes.get_legend_handles_labels()
    looks = _looks(axes)
    for other in figure.axes:
        legend = other.get_legend()
        if legend is not None and not handles:
            pairs = zip(legend.legend_handles, legend.get_texts(), strict=True)
            fitting = [
                (handle, text.get_text()) for handle, text in pairs if _look(handle) in looks
            ]
            handles, labels = [each for each, _ in fitting], [said for _, said in fitting]
    if handles and not _is_explained(axes, labels):
        axes.legend(handles, labels)


def _is_explained(axes: Any, labels: list[str]) -> bool:
    """Whether the labels stand beside what they name already, or on the ticks."""
    written = {text.get_text() for text in axes.texts}
    return all(label in written for label in labels)


def _looks(axes: Any) -> set[Any]:
    return {_look(artist) for artist in (*axes.lines, *axes.collections, *axes.patches)}


def _look(artist: Any) -> Any:
    """What tells lines, areas and points of a figure apart."""
    colors = import_extra("matplotlib.colors", "a figure")
    if hasattr(artist, "get_marker"):
        shown = colors.to_hex(artist.get_color())
        return "line", shown, artist.get_linestyle(), str(artist.get_marker())
    faces = artist.get_facecolor()
    rows = faces if getattr(faces, "ndim", 1) == 2 else [faces]
    return "area", colors.to_hex(rows[0]) if len(rows) else None


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
