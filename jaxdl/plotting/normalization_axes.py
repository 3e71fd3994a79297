"""Which entries share a mean and a variance: batch, layer, instance and group norm, as cubes."""

from collections.abc import Sequence
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

from jaxdl.checks import require_at_least
from jaxdl.plotting.figure import new_figure

COLOUR = (0.0, 0.447, 0.698)
SLOPE = np.radians(30)
"""Of the two axes that lie flat, on the page of an isometric drawing."""
LABEL_AWAY = 0.7
"""The distance of an axis's name from its edge, in cells."""


class Norm(NamedTuple):
    """A normalisation: which statistic an entry belongs to.

    Attributes:
        title: its name.
        by_example: whether each example has statistics of its own.
        channels: how many channels share a statistic: "one", "group" or "all".
    """

    title: str
    by_example: bool
    channels: str


NORMS = (
    Norm("Batch norm", by_example=False, channels="one"),
    Norm("Layer norm", by_example=True, channels="all"),
    Norm("Instance norm", by_example=True, channels="one"),
    Norm("Group norm", by_example=True, channels="group"),
)


def normalization_axes(
    axes: Sequence[Any] | None = None,
    *,
    examples: SupportsIndex = 4,
    channels: SupportsIndex = 6,
    positions: SupportsIndex = 4,
    groups: SupportsIndex = 2,
) -> Any:
    r"""Draw which entries of a batch of images four normalisations average together.

    A cube is the activations $x_{nc p}$ of a layer: n the example, c the channel, p the position
    among H W. Every entry of a set S has the mean and the variance of that set taken off:

    $$\hat x_i = \frac{x_i - \mu_S}{\sqrt{\sigma_S^2 + \epsilon}}, \quad
    \mu_S = \frac{1}{|S|} \sum_{j \in S} x_j$$

    | norm | an entry's set S |
    | --- | --- |
    | batch | its channel, in all examples |
    | layer | its example, all channels |
    | instance | its example, its channel |
    | group | its example, the channels of its group |

    All take all positions. One set is coloured; strong lines part it from the others. The layer
    norm is that of images, over C, H and W; Flax's `nn.LayerNorm` has it with
    `reduction_axes=(-3, -2, -1)` and takes C alone by default.

    Arguments:
        axes: four of matplotlib's to draw in, in the order of the table; None for a new figure.
        examples: N, at least 1.
        channels: C, a multiple of `groups`.
        positions: H W, at least 1.
        groups: of the group norm, at least 1.

    Returns:
        matplotlib's Figure.

    Raises:
        ValueError: a number out of range; other than four axes.

    Example:
        >>> figure = normalization_axes()
        >>> [panel.get_title().split(chr(10))[0] for panel in figure.axes]
        ['Batch norm', 'Layer norm', 'Instance norm', 'Group norm']

    Source: Wu and He (2018), Group Normalization, section 3.1 and figure 2.
    """
    require_at_least(1, examples=examples, channels=channels, positions=positions, groups=groups)
    shape = (int(examples), int(channels), int(positions))
    if shape[1] % int(groups):
        raise ValueError(
            f"channels must be a multiple of groups, got {shape[1]} channels in {int(groups)} "
            "groups; pass a divisor as groups"
        )
    if axes is None:
        figure = new_figure(5.6, 6.4)
        axes = list(figure.subplots(2, 2).ravel())
        figure.supxlabel("All coloured entries share one mean and one variance.", fontsize=12)
    if len(axes) != len(NORMS):
        raise ValueError(
            f"axes must be {len(NORMS)}, one for each norm, got {len(axes)}; pass four or none"
        )
    for panel, norm in zip(axes, NORMS, strict=True):
        _draw_cube(panel, statistic_of(norm, shape, int(groups)))
        panel.set_title(f"{norm.title}\n{_averaged(norm, int(groups))}", fontsize=12)
    return axes[0].figure


def statistic_of(norm: Norm, shape: tuple[int, int, int], groups: int) -> np.ndarray:
    """The number of the statistic that each entry (example, channel, position) belongs to."""
    example, channel, _ = np.indices(shape)
    channels = shape[1]
    among = {"one": channels, "group": groups, "all": 1}[norm.channels]
    by_channel = channel // (channels // among)
    numbers: np.ndarray = by_channel + among * example * norm.by_example
    return numbers


def _averaged(norm: Norm, groups: int) -> str:
    """In words, what the mean is over."""
    examples = [] if norm.by_example else ["N"]
    channels = {"one": [], "group": [f"C/{groups}"], "all": ["C"]}[norm.channels]
    return f"mean over {', '.join([*examples, *channels, 'H, W'])}"


def _draw_cube(axes: Any, statistic: np.ndarray) -> None:
    """The three faces towards the reader; the set of the front corner is coloured."""
    from matplotlib.collections import LineCollection, PolyCollection

    is_coloured = statistic == statistic[-1, -1, -1]
    cells, colours, borders = [], [], []
    # Each face: the axes that it spans, the third one, and its shade. Shades make a solid of them.
    for *spanned, third, shade in ((1, 2, 0, 1.0), (0, 2, 1, 0.86), (0, 1, 2, 0.93)):
        on_face, numbers = (each.take(-1, axis=third) for each in (is_coloured, statistic))
        for place in np.ndindex(*on_face.shape):
            corners = np.full((4, 3), statistic.shape)
            corners[:, spanned] = np.add(place, [(0, 0), (1, 0), (1, 1), (0, 1)])
            page = _on_page(corners)
            cells.append(page)
            colours.append(shade * np.array(COLOUR if on_face[place] else (1.0, 1.0, 1.0)))
            first, second = place
            for other, border in (
                ((first + 1, second), page[1:3]),
                ((first, second + 1), page[2:]),
            ):
                is_inside = np.all(np.less(other, on_face.shape))
                if is_inside and numbers[other] != numbers[place]:
                    borders.append(border)
    examples, channels, positions = statistic.shape
    outline = [
        (0, 0, positions), (examples, 0, positions), (examples, 0, 0),
        (examples, channels, 0), (0, channels, 0), (0, channels, positions),
    ]  # fmt: skip
    axes.add_collection(PolyCollection(cells, facecolors=colours, edgecolors="0.6", linewidths=0.6))
    axes.add_collection(
        PolyCollection([_on_page(outline)], facecolors="none", edgecolors="k", linewidths=1.6)
    )
    axes.add_collection(LineCollection(borders, colors="k", linewidths=1.6, capstyle="round"))
    slope = np.degrees(SLOPE)
    for name, middle, turned, outwards in (
        ("channels C", (examples, channels / 2, 0), -slope, -90 - slope),
        ("examples N", (examples / 2, channels, 0), slope, -90 + slope),
        ("positions H, W", (examples, 0, positions / 2), 90, 180),
    ):
        direction = np.array([np.cos(np.radians(outwards)), np.sin(np.radians(outwards))])
        axes.text(
            *(_on_page([middle])[0] + LABEL_AWAY * direction), name, rotation=turned, fontsize=11,
            ha="center", va="center",
        )  # fmt: skip
    left, low = _on_page(outline).min(0) - 2 * LABEL_AWAY
    right, high = _on_page(outline).max(0) + LABEL_AWAY
    axes.set(xlim=(left, right), ylim=(low, high), aspect="equal")
    axes.set_axis_off()


def _on_page(points: Any) -> np.ndarray:
    """Isometric: examples go down to the left, channels down to the right, positions up."""
    example, channel, position = np.asarray(points, np.float64).T
    return np.stack(
        [
            (channel - example) * np.cos(SLOPE),
            position - (channel + example) * np.sin(SLOPE),
        ],
        axis=-1,
    )
