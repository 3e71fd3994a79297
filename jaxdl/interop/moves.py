"""One parameter here and in PyTorch: the same numbers, with axes in another order."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import numpy as np

from jaxdl.interop.flattening import UNKNOWN

COUNT = "num_batches_tracked"

LEAVES = ("weight", "bias", "running_mean", "running_var", COUNT)
"""The names of the variables of PyTorch's layers; another one is a parameter that stands alone."""

STATISTICS = {"mean": "running_mean", "var": "running_var", "count": COUNT}
"""A batch norm's running values, and their names there."""

Leaf = tuple[str, str]
"""(collection, name) of a variable, e.g. ("params", "kernel")."""


@dataclass(frozen=True, eq=False)
class Move:
    """How a parameter becomes PyTorch's: axes are joined, reversed and put in another order.

    Attributes:
        name: their name of it; "" where the layer is one parameter.
        ours: its shape here.
        grouped: the same with axes joined.
        axes: the order of the grouped axes there.
        theirs: its shape there.
        reversed_axes: the grouped axes that run backwards there.
        features: of the first grouped axis, which of ours each of theirs is; None: the same.
        made: the same of the last grouped axis.
    """

    name: str
    ours: tuple[int, ...]
    grouped: tuple[int, ...]
    axes: tuple[int, ...]
    theirs: tuple[int, ...]
    reversed_axes: tuple[int, ...] = ()
    features: Any = None
    made: Any = None

    def __post_init__(self) -> None:
        for order, size in ((self.features, self.grouped[:1]), (self.made, self.grouped[-1:])):
            if order is not None and (order.size,) != size:
                raise ValueError(
                    f"an image must have as many values as its layer has features, {size[0]}, got "
                    f"{order.size}; pass its (height, width, channels), whose product that is"
                )

    def give(self, ours: Any) -> np.ndarray:
        """The parameter as PyTorch has it, a copy.

        Example:
            >>> dense("kernel", (2, 3)).give(np.arange(6).reshape(2, 3)).tolist()
            [[0, 3], [1, 4], [2, 5]]
        """
        values = np.asarray(ours).reshape(self.grouped)
        if self.features is not None:
            values = values[self.features]
        if self.made is not None:
            values = values[..., self.made]
        values = np.flip(values, self.reversed_axes).transpose(self.axes)
        return np.array(values.reshape(self.theirs), order="C")

    def take(self, theirs: Any) -> np.ndarray:
        """The inverse of `give`."""
        values = np.asarray(theirs).reshape([self.grouped[axis] for axis in self.axes])
        values = np.flip(values.transpose(np.argsort(self.axes)), self.reversed_axes)
        if self.features is not None:
            placed = np.empty_like(values)
            placed[self.features] = values
            values = placed
        if self.made is not None:
            placed = np.empty_like(values)
            placed[..., self.made] = values
            values = placed
        return np.array(values.reshape(self.ours), order="C")


def plain(name: str, shape: tuple[int, ...], features: Any = None) -> Move:
    """A parameter that is the same there."""
    return Move(name, shape, shape, tuple(range(len(shape))), shape, features=features)


def dense(
    name: str, shape: tuple[int, ...], outputs: int = 1, features: Any = None, made: Any = None
) -> Move:
    """A kernel (*inputs, *outputs) and their weight (out, in); a bias.

    Arguments:
        name: "kernel" or "bias".
        shape: its shape here.
        outputs: how many axes the layer's outputs have.
        features, made: as of `Move`.
    """
    out = int(np.prod(shape[len(shape) - outputs :]))
    if name == "bias":
        return Move("bias", shape, (out,), (0,), (out,), made=made)
    inputs = int(np.prod(shape[: len(shape) - outputs]))
    return Move("weight", shape, (inputs, out), (1, 0), (out, inputs), (), features, made)


def convolution(name: str, shape: tuple[int, ...], transposed: bool | None = None) -> Move:
    """A kernel (*window, in / groups, out) and their weight (out, in / groups, *window); a bias.

    Arguments:
        name: "kernel" or "bias".
        shape: its shape here.
        transposed: of a transposed convolution its `transpose_kernel`. PyTorch's weight is (in,
            out, *window). Its window runs backwards, seen from a kernel (*window, in, out).
    """
    if name == "bias":
        return plain("bias", shape)
    window = tuple(range(len(shape) - 2))
    last = (len(shape) - 2, len(shape) - 1)
    first = last if transposed is False else last[::-1]
    axes = (*first, *window)
    theirs = tuple(shape[axis] for axis in axes)
    return Move("weight", shape, shape, axes, theirs, window if transposed is False else ())


def of_norm(name: str, shape: tuple[int, ...], features: Any = None) -> Move:
    """Scale, bias and running values; a scale of whole images (H, W, C) is (C, H, W) there."""
    theirs = {"scale": "weight", **STATISTICS}.get(name, name)
    if len(shape) < 2:
        return plain(theirs, shape, features if shape else None)
    axes = (len(shape) - 1, *range(len(shape) - 1))
    return Move(theirs, shape, shape, axes, tuple(shape[axis] for axis in axes))


def moves_of(
    path: str,
    module: nn.Module | None,
    leaves: Mapping[Leaf, tuple[int, ...]],
    features: Any,
    made: Any,
) -> dict[Leaf, Move] | None:
    """The moves of a layer's variables; None of a layer that nobody knows.

    Arguments:
        path: where the layer is.
        module: the layer; None if the model does not call it itself.
        leaves: its own variables' shapes.
        features: of flattened inputs, which of ours each of theirs is; see `flattening`.
        made: the same of outputs that become an image.

    Raises:
        ValueError: features whose order nobody knows; a norm that PyTorch's cannot be.
    """
    names = {name for _, name in leaves}
    if isinstance(features, str) and names & {"kernel", "scale", "mean", "negative_slope"}:
        raise ValueError(
            f"the order of the input features of {path or 'the model'} must be known, got a "
            f"reshape that may or may not put channels first in PyTorch ({UNKNOWN}); pass "
            f"flattened={{{path!r}: (height, width, channels)}}, the axes here, where channels "
            f"stand first there, or {{{path!r}: None}} where both have one order"
        )
    if isinstance(made, str) and "kernel" in names:
        raise ValueError(
            f"the order of the output features of {path or 'the model'} must be known, got "
            f"several axes that may or may not put channels first in PyTorch; pass "
            f"unflattened={{{path!r}: (height, width, channels)}}, the axes here, where channels "
            f"stand first there, or {{{path!r}: None}} where both have one order"
        )
    features, made = (None if isinstance(each, str) else each for each in (features, made))
    if isinstance(module, nn.DenseGeneral):
        if np.size(module.batch_dims):
            return None
        outputs = int(np.size(module.features))
        return {
            leaf: dense(leaf[1], shape, outputs, features, made) for leaf, shape in leaves.items()
        }
    if isinstance(module, nn.Conv | nn.ConvTranspose):
        if made is not None:
            raise ValueError(
                f"channels of a convolution must keep their order, got unflattened for {path}; "
                "convert its parameters yourself"
            )
        flag = module.transpose_kernel if isinstance(module, nn.ConvTranspose) else None
        return {leaf: convolution(leaf[1], shape, flag) for leaf, shape in leaves.items()}
    if isinstance(module, nn.ConvLocal | nn.Einsum):
        return None
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        if any(len(shape) == 2 for shape in leaves.values()):
            raise ValueError(
                f"a norm must have the features of vectors or of images, got {path} over the two "
                "axes of a sequence, whose order in PyTorch nobody knows; convert it yourself"
            )
        return {leaf: of_norm(leaf[1], shape, features) for leaf, shape in leaves.items()}
    if isinstance(module, nn.GroupNorm) and features is not None:
        raise ValueError(
            f"a GroupNorm must not stand after a flattening, got {path}: PyTorch's groups would "
            "hold other features"
        )
    return _by_names(names, leaves, features, made)


def _by_names(
    names: set[str], leaves: Mapping[Leaf, tuple[int, ...]], features: Any, made: Any
) -> dict[Leaf, Move] | None:
    """By Flax's names, which layers of other people use as well."""
    ranks = {name: len(shape) for (_, name), shape in leaves.items()}
    if names <= {"kernel", "bias"} and ranks.get("kernel") == 2:
        return {leaf: dense(leaf[1], shape, 1, features, made) for leaf, shape in leaves.items()}
    if names == {"embedding"} and ranks["embedding"] == 2:
        return {leaf: plain("weight", shape) for leaf, shape in leaves.items()}
    if names == {"negative_slope"} and ranks["negative_slope"] < 2:
        return {
            leaf: plain("weight", shape, features)
            if shape
            else Move("weight", (), (1,), (0,), (1,))
            for leaf, shape in leaves.items()
        }
    if names <= {"scale", "bias", *STATISTICS} and max(ranks.values()) < 2:
        return {leaf: of_norm(leaf[1], shape, features) for leaf, shape in leaves.items()}
    return None
