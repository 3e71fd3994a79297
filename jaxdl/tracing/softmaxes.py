"""Where a program attends: a softmax between two products of signals."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from jax.extend.core import JaxprEqn, Literal, Var

from jaxdl.jaxprs import equations, holds_primitive, inner_programs, shape_of, size_of
from jaxdl.tracing.levels import Level, before_moves

PRODUCT = "dot_general"
_OF_SOFTMAX = ("exp", "reduce_sum", "div")


class Attention(NamedTuple):
    """The weights softmax(logits) of an attention.

    Attributes:
        weights: their variable.
        logits: what the softmax is taken of, masks included.
        axis: that of the keys.
    """

    weights: Var
    logits: Any
    axis: int


def find_attention(level: Level, is_parameter: Callable[[Any], bool]) -> Iterator[Attention]:
    """The attentions of one level, in order of execution.

    The logits are a product of two signals, perhaps scaled, shifted, masked; the weights, perhaps
    after a dropout, are a factor of a product. So the softmax of a classifier or of a router is
    none: its logits are a product with a parameter.

    Arguments:
        level: a written-out program.
        is_parameter: whether a value is a moved parameter.
    """
    for equation in level.program.eqns:
        found = _softmax(level, equation)
        if (
            found is not None
            and level.is_learned(found.weights)
            and _is_product_of_signals(level, found.logits, is_parameter)
            and _is_factor(level, found.weights)
        ):
            yield found


def _softmax(level: Level, equation: JaxprEqn) -> Attention | None:
    """The softmax that an equation is, or ends."""
    if equation.primitive.name == "div":
        made = _maker(level, equation.invars[0])
        total = _maker(level, equation.invars[1])
        if made is None or total is None or made.primitive.name != "exp":
            return None
        if total.primitive.name != "reduce_sum" or len(total.params["axes"]) != 1:
            return None
        shifted = _maker(level, made.invars[0])
        is_shifted = shifted is not None and shifted.primitive.name == "sub"
        logits = shifted.invars[0] if shifted is not None and is_shifted else made.invars[0]
        return Attention(equation.outvars[0], logits, int(total.params["axes"][0]))
    inner = [each for program in inner_programs(equation) for each in equations(program)]
    names = {each.primitive.name for each in inner}
    given = [atom for atom in equation.invars if not isinstance(atom, Literal) and shape_of(atom)]
    if not names.issuperset(_OF_SOFTMAX) or PRODUCT in names or not given:
        return None
    logits = max(given, key=lambda atom: len(shape_of(atom)))
    weights = equation.outvars[0]
    if shape_of(weights) != shape_of(logits):
        return None
    total = next(each for each in inner if each.primitive.name == "reduce_sum")
    axes = total.params["axes"]
    if len(axes) != 1 or len(shape_of(total.invars[0])) != len(shape_of(logits)):
        return None
    return Attention(weights, logits, int(axes[0]))


def _is_product_of_signals(level: Level, atom: Any, is_parameter: Callable[[Any], bool]) -> bool:
    """Whether a value is a product of two signals, scaled, shifted or masked."""
    while (made := _maker(level, atom)) is not None:
        signals = [each for each in made.invars if level.is_learned(each)]
        if _is_product(made):
            factors = [each for each in made.invars if not isinstance(each, Literal)]
            return len(factors) > 1 and not any(is_parameter(each) for each in factors)
        free = [each for each in signals if not is_parameter(each)]
        same = [each for each in free if size_of(each) == size_of(made.outvars[0])]
        if len(same) != 1:
            return False
        (atom,) = same
    return False


def _is_factor(level: Level, variable: Var) -> bool:
    """Whether a product reads a value, perhaps after a dropout or a rounding."""
    reached = {variable}
    for equation in level.program.eqns[level.made_by[variable] + 1 :]:
        if reached.isdisjoint(atom for atom in equation.invars if not isinstance(atom, Literal)):
            continue
        if _is_product(equation):
            return True
        size = size_of(variable)
        reached.update(made for made in equation.outvars if size_of(made) == size)
    return False


def _is_product(equation: JaxprEqn) -> bool:
    inner = inner_programs(equation)
    return equation.primitive.name == PRODUCT or any(
        holds_primitive(program, PRODUCT) for program in inner
    )


def _maker(level: Level, atom: Any) -> JaxprEqn | None:
    """The equation that gives a value, before it was moved or spread."""
    while not isinstance(atom, Literal):
        atom, _ = before_moves(level.program, level.made_by, atom)
        place = None if isinstance(atom, Literal) else level.made_by.get(atom)
        if place is None:
            return None
        equation = level.program.eqns[place]
        if equation.primitive.name not in ("broadcast_in_dim", "stop_gradient"):
            return equation
        atom = equation.invars[0]
    return None
