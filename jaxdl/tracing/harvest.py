"""Values from inside a function, also from the bodies of its scans, vmaps and checkpoints."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn
from jaxtyping import Array

from jaxdl.tracing.labels import LABEL, bind_label
from jaxdl.tracing.levels import Level
from jaxdl.tracing.opened import written_out
from jaxdl.tracing.sites import Own, Source, as_axes, positions_of, source_of


class Found(NamedTuple):
    """A value that was put aside.

    Attributes:
        name: as it was put aside.
        value: with a first axis for each scan around it, from the outside in.
        reads: of each array that was named with it, which of the function's arguments it is, and on
            which axes the scans and vmaps around it run there; None if it is none of them. What a
            scan carries counts as what it starts with.
        scans: the scans around it, from the outside in.
        mapped: the axes over which vmaps around it run, by their number; without those of scans.
    """

    name: str
    value: Array
    reads: tuple[Own | None, ...]
    scans: tuple[Level, ...]
    mapped: Mapping[int, int]

    def by_layer(self, read: int = 0) -> tuple[Array, tuple[int, ...]]:
        """The value with axes of layers, then of repetitions, in front; and where layers go.

        A scan or vmap runs over layers if the array `read` has an axis of it, and else repeats one
        layer, over time or examples. These axes are made one.

        Returns:
            The value, (layers..., repetitions, ...), and the axes of the layers in the array.
        """
        own = self.reads[read]
        assert own is not None
        at: dict[Source, int] = {scan: place for place, scan in enumerate(self.scans)}
        at.update({number: len(self.scans) + axis for number, axis in self.mapped.items()})
        layers = [source for source in own.axes if source in at]
        others = [source for source in at if source not in layers]
        order = [at[source] for source in (*layers, *others)]
        moved = jnp.moveaxis(self.value, order, range(len(order)))
        kept = moved.shape[: len(layers)]
        together = moved.reshape(*kept, -1, *moved.shape[len(order) :])
        return together, tuple(own.axes[source] for source in layers)


def put_aside(name: str, value: Array, *reads: Array) -> Array:
    """The value itself; inside `harvest` it is found under this name.

    Arguments:
        reads: arguments of the harvested function that tell where the value belongs.
    """
    labelled: Array = bind_label(value, *reads, kind=name)
    return labelled


def harvest(function: Callable[..., Any]) -> Callable[..., tuple[Any, list[Found]]]:
    """`function` that also returns what was put aside in it, in order of execution.

    The results are those of one call: nothing is computed twice.

    Raises:
        ValueError: something is put aside in a branch or a while loop.

    Example:
        >>> import jax.numpy as jnp
        >>> def running_sum(x):
        ...     return jax.lax.scan(lambda s, x: (put_aside("sum", s + x), None), 0.0, x)[0]
        >>> total, (found,) = harvest(running_sum)(jnp.arange(4.0))
        >>> total.item(), found.name, found.value.tolist()
        (6.0, 'sum', [0.0, 1.0, 3.0, 6.0])
    """

    def harvested(*arguments: Any) -> tuple[Any, list[Found]]:
        structure = None

        def flat(*arguments: Any) -> list[Any]:
            nonlocal structure
            leaves, structure = jax.tree.flatten(function(*arguments))
            return leaves

        program, hidden = written_out(jax.make_jaxpr(flat)(*arguments))
        if hidden:
            raise ValueError(
                "values must not be put aside in a branch, a while loop, a callback or a function "
                f"with its own derivative, got {', '.join(hidden)} there; take the module out of it"
            )
        top = Level(program.jaxpr, program.consts)
        labels = [
            (level, equation)
            for level, _, equation in top.walk()
            if equation.primitive.name == LABEL and equation.params["path"] is None
        ]
        numbered = {equation.outvars[0]: n for n, (_, equation) in enumerate(labels)}
        for level in top.levels():
            own = {v: n for v, n in numbered.items() if labels[n][0] is level}
            level.cut(own, level.program.outvars)
        outputs, kept = top.run(
            jax.tree.leaves(arguments), {}, lambda number, value, *_: (value, value)
        )
        found = [_found(*labels[number], kept[number]) for number in range(len(labels))]
        return jax.tree.unflatten(structure, outputs), found

    return harvested


def _found(level: Level, label: JaxprEqn, value: Array) -> Found:
    mapped = label.params["mapped"]
    reads = tuple(
        source_of(level, operand, as_axes(positions_of(mapped, place)), through_carry=True)
        for place, operand in enumerate(label.invars[1:], start=1)
    )
    scans = level.around()
    return Found(label.params["kind"], value, reads, scans, positions_of(mapped, 0))
