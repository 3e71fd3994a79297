"""In which order PyTorch has the features of a flattened image.

Images are (height, width, channels) here and (channels, height, width) there, so a flattened image
has the same numbers in another order.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn

from jaxdl.jaxprs import CONVOLUTION, shape_of

UNKNOWN = "its axes are no image's"
"""The order of features that were joined in a way that says nothing about PyTorch."""

_MIXES = (
    "rev", "sort", "gather", "scatter", "scatter-add", "cumsum", "cumprod", "cummax", "cummin",
    "cumlogsumexp", "fft", "top_k",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Layout:
    """What is known of a value.

    Attributes:
        axes: which axis of (batch, height, width, channels) each of its axes is.
        order: of the last axis, which of ours each of theirs is; None: the same; or UNKNOWN.
        convolved: whether it came from a convolution; then the highest of `axes` are its channels.
        split: whether its last two axes were one.
        doubtful: whether a dense layer or an attention made it, or operands with other axes: then
            PyTorch may have its channels last, too.
        free: whether it is a constant, or one that is repeated over some axes.
        makers: the layers whose features are those of its last axis.
        image: the image that a vector became, until a convolution says that it is one.
    """

    axes: tuple[int, ...] | None = None
    order: Any = None
    convolved: bool = False
    split: bool = False
    doubtful: bool = False
    free: bool = False
    makers: frozenset[str] = frozenset()
    image: "Image | None" = None


@dataclass(frozen=True, eq=False)
class Image:
    """Features of some layers that became an image: the inverse of a flattening.

    Attributes:
        makers: the layers.
        order: as of `channels_first`, or UNKNOWN.
        is_sequence: whether it may as well be vectors of a sequence or heads, in the same order.
    """

    makers: frozenset[str]
    order: Any
    is_sequence: bool


NOTHING = Layout()
FREE = Layout(free=True)


def channels_first(sizes: Sequence[int], axes: Sequence[int] | None = None) -> Any:
    """Of flattened axes, which of ours each of theirs is; None if both have one order.

    Arguments:
        sizes: of the axes that are flattened, in their order here.
        axes: which axis of (height, width, channels) each is; the highest is the channels'.

    Example:
        >>> channels_first((2, 1, 3)).tolist()
        [0, 3, 1, 4, 2, 5]
    """
    named = tuple(range(len(sizes))) if axes is None else tuple(axes)
    places = sorted(range(len(sizes)), key=lambda place: (named[place] != max(named), named[place]))
    order = np.arange(np.prod(sizes)).reshape(sizes).transpose(places).ravel()
    return None if (order == np.arange(order.size)).all() else order


def layout_of(equation: JaxprEqn, given: list[Layout]) -> Layout:
    """The layout of an equation's result."""
    name, params = equation.primitive.name, equation.params
    after = shape_of(equation.outvars[0])
    shapes = [shape_of(atom) for atom in equation.invars]
    if name == CONVOLUTION:
        batch, channels, *spatial = params["dimension_numbers"].out_spec
        axes = dict(zip((batch, *spatial, channels), range(len(after)), strict=True))
        return Layout(axes=tuple(axes[place] for place in range(len(after))), convolved=True)
    repeats = name == "broadcast_in_dim" and math.prod(shapes[0]) < math.prod(after)
    if all(each.free for each in given) or (repeats and given[0].order is None):
        return FREE
    if name == "dot_general" or not after:
        return Layout(doubtful=len(after) > 2)
    if name == "reshape":
        return _reshaped(shapes[0], after, given[0])
    if name == "transpose":
        permutation, axes_before = params["permutation"], _axes(given[0], shapes[0])
        last_stays = permutation[-1] == len(after) - 1
        return replace(
            given[0],
            axes=tuple(axes_before[place] for place in permutation),
            order=given[0].order if last_stays else None,
            makers=given[0].makers if last_stays else frozenset(),
        )
    if name.startswith("reduce") and "axes" in params:
        gone = params["axes"]
        kept = [axis for at, axis in enumerate(_axes(given[0], shapes[0])) if at not in gone]
        last_stays = len(shapes[0]) - 1 not in gone
        return Layout(
            axes=tuple(sorted(kept).index(axis) for axis in kept),
            order=given[0].order if last_stays else None,
            convolved=given[0].convolved,
            doubtful=given[0].doubtful,
            makers=given[0].makers if last_stays else frozenset(),
        )
    if name == "concatenate" and params["dimension"] == len(after) - 1:
        order = _joined(shapes, given)
    else:
        order = _order(name, shapes, after, given)
    peers = [
        (each, _axes(each, shape))
        for each, shape in zip(given, shapes, strict=True)
        if len(shape) == len(after) and not each.free
    ]
    if not peers:
        return Layout(order=order)
    return Layout(
        axes=peers[0][1],
        order=order,
        convolved=any(each.convolved for each, _ in peers),
        split=any(each.split for each, _ in peers),
        doubtful=any(each.doubtful or axes != peers[0][1] for each, axes in peers),
        makers=frozenset().union(*(each.makers for each, _ in peers)),
        image=next((each.image for each, _ in peers if each.image is not None), None),
    )


def _axes(layout: Layout, shape: tuple[int, ...]) -> tuple[int, ...]:
    return layout.axes or tuple(range(len(shape)))


def _order(
    name: str, shapes: list[tuple[int, ...]], after: tuple[int, ...], given: list[Layout]
) -> Any:
    """The order of the last axis of a result that has an entry for each of its inputs'."""
    told = [
        (each.order, shape)
        for each, shape in zip(given, shapes, strict=True)
        if each.order is not None
    ]
    if not told:
        return None
    first = told[0][0]
    for order, shape in told:
        agrees = not isinstance(order, str) and np.array_equal(order, first)
        if not agrees or shape[-1] != after[-1] or name in _MIXES:
            return UNKNOWN
    return first


def _joined(shapes: list[tuple[int, ...]], given: list[Layout]) -> Any:
    """The order of the last axis where it joins those of several values."""
    if all(each.order is None for each in given):
        return None
    if any(isinstance(each.order, str) for each in given):
        return UNKNOWN
    ends = np.cumsum([shape[-1] for shape in shapes])
    own = [
        np.arange(shape[-1]) if each.order is None else each.order
        for each, shape in zip(given, shapes, strict=True)
    ]
    return np.concatenate([part + end - len(part) for part, end in zip(own, ends, strict=True)])


def _reshaped(before: tuple[int, ...], after: tuple[int, ...], layout: Layout) -> Layout:
    """What the last axis joins: an image, the heads of an attention, or something else."""
    if [size for size in before if size != 1] == [size for size in after if size != 1]:
        return layout if before == after else replace(layout, axes=None)
    count, size = 0, 1
    while count < len(before) and size < after[-1]:
        count += 1
        size *= before[-count]
    if size != after[-1]:
        return _split(before, after, layout)
    if count == 1:
        return replace(layout, axes=None, convolved=False, split=False)
    if layout.order is not None:
        return Layout(order=UNKNOWN)
    sizes, axes = before[-count:], _axes(layout, before)[-count:]
    if layout.split or len(before) - 1 not in axes:
        return NOTHING
    order = channels_first(sizes, axes)
    is_image = layout.convolved or count > 2
    if order is None or not is_image:
        return NOTHING  # vectors of a sequence, heads of an attention, an image without channels
    return Layout(order=UNKNOWN if layout.doubtful or len(after) > 2 else order)


def _split(before: tuple[int, ...], after: tuple[int, ...], layout: Layout) -> Layout:
    """A last axis that becomes several: an image, heads, or something else."""
    count, size = 0, 1
    while count < len(after) and size < before[-1]:
        count += 1
        size *= after[-count]
    order: Any = UNKNOWN if size != before[-1] else channels_first(after[-count:])
    is_vector = len(before) <= 2
    if count > 2 and not is_vector and order is not None:
        order = UNKNOWN  # as of pixels that were channels
    return Layout(
        order=None if layout.order is None else UNKNOWN,
        split=is_vector,
        doubtful=not is_vector,
        image=None if order is None else Image(layout.makers, order, is_sequence=count <= 2),
    )
