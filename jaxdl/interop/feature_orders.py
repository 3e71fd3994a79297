"""The program of a model says which layers see a flattened image, and which make one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from jaxdl.interop.flattening import FREE, NOTHING, UNKNOWN, Image, Layout, layout_of
from jaxdl.jaxprs import CONVOLUTION, inner_programs, shape_of

MARK, MARK_MADE = "jaxdl.interop into ", "jaxdl.interop from "
"""The beginnings of the names that mark the layers' inputs and outputs in a program."""


class Orders:
    """Of each layer, the orders of its features, one for each call.

    An order is None where both have the same one, an array as of `channels_first`, or UNKNOWN.

    Attributes:
        inputs: of its inputs.
        outputs: of its outputs, where these become an image.
    """

    def __init__(self, program: Jaxpr) -> None:
        self.inputs: dict[str, list[Any]] = {}
        self.outputs: dict[str, list[Any]] = {}
        self.makers: dict[str, frozenset[str]] = {}
        self.images: list[Image] = []
        self.convolved: list[Image] = []
        _walk(program, [NOTHING] * len(program.invars), self)
        for image in self.images:
            is_image = any(image is each for each in self.convolved)
            if is_image or not image.is_sequence:
                for path in image.makers:
                    order = image.order if is_image else UNKNOWN
                    self.outputs.setdefault(path, []).append(order)

    def read(self, outputs: Mapping[str, Any]) -> dict[str, list[Any]]:
        """The orders of the layers' inputs: what reads an image's features has their order.

        Arguments:
            outputs: the order of each layer's outputs, as it was said or found.
        """
        orders = dict(self.inputs)
        for path, makers in self.makers.items():
            read = [outputs[maker] for maker in makers if maker in outputs]
            known = [order for order in read if not isinstance(order, str)]
            orders[path] = known or read or orders[path]
        return orders


def _walk(program: Jaxpr, inputs: Sequence[Layout], found: Orders) -> list[Layout]:
    known: dict[Var, Layout] = dict(zip(program.invars, inputs, strict=True))

    def layout(atom: Any) -> Layout:
        return FREE if isinstance(atom, Literal) else known.get(atom, NOTHING)

    for equation in program.eqns:
        given = [layout(atom) for atom in equation.invars]
        if inner_programs(equation):
            made = _inside(equation, given, found)
        else:
            layout_made = layout_of(equation, given)
            if equation.primitive.name == "name":
                layout_made = _noted(equation.params["name"], given[0], found)
            if layout_made.image is not None and layout_made.image not in found.images:
                found.images.append(layout_made.image)
            if equation.primitive.name == CONVOLUTION and given[0].image is not None:
                found.convolved.append(given[0].image)
            made = [layout_made] * len(equation.outvars)
        known.update(zip(equation.outvars, made, strict=True))
    return [layout(atom) for atom in program.outvars]


def _noted(name: str, layout: Layout, found: Orders) -> Layout:
    """What a mark says of the value that goes into a layer, or comes from it."""
    if name.startswith(MARK):
        path = name.removeprefix(MARK)
        found.inputs.setdefault(path, []).append(layout.order)
        found.makers[path] = found.makers.get(path, frozenset()) | layout.makers
    elif name.startswith(MARK_MADE):
        return replace(layout, makers=layout.makers | {name.removeprefix(MARK_MADE)})
    return layout


def _inside(equation: JaxprEqn, given: list[Layout], found: Orders) -> list[Layout]:
    """Walk the body of a loop, the branches of a condition, a function that was compiled apart."""
    made = [NOTHING] * len(equation.outvars)
    for program in inner_programs(equation):
        # The last inputs are the program's; a slice of a scan has one axis less.
        last = list(zip(equation.invars, given, strict=True))[-len(program.invars) :]
        inputs = [
            layout if shape_of(atom) == shape_of(inner) else Layout(order=layout.order)
            for inner, (atom, layout) in zip(program.invars, last, strict=False)
        ]
        outputs = _walk(program, inputs + [NOTHING] * (len(program.invars) - len(inputs)), found)
        if len(outputs) == len(made):
            made = [
                layout if shape_of(inner) == shape_of(outer) else Layout(order=layout.order)
                for layout, inner, outer in zip(
                    outputs, program.outvars, equation.outvars, strict=True
                )
            ]
    return made
