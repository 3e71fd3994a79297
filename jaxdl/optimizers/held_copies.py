"""A warning of optimizers that hold parameters of which nobody says whether they are evaluated."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import Literal, Var

from jaxdl.notices import notice
from jaxdl.optimizers.averaging import evaluates

FOR_OTHER_ENDS = (
    "COCOBState", "DoGState", "DoWGState", "MadgradState", "MechanicState", "ProdigyState",
    "ScaleByDistanceOverGradientsState",
)  # fmt: skip
"""States of optax that remember where the run began; the parameters themselves are evaluated."""

REMEDIES = {
    "ScheduleFreeState": "use optimizers.schedule_free, of which x is evaluated",
    "SAMState": "use optimizers.sam, whose parameters are never those of the ascent",
}
"""By the state's class: what to do about those of optax that are known."""

ANY_REMEDY = (
    "if they are what should be evaluated, name their field in the state's class: "
    "evaluated_field = {field!r}"
)


def warn_of_copies(optimizer: optax.GradientTransformation, params: Any) -> None:
    """Warn where a state begins with a copy of the parameters, and nothing is known of it.

    An average begins at the parameters, moments and velocities begin at zero. So the state is
    traced as a function of the parameters: what does not depend on their values is no average.
    """
    for owner, field in copies_in(optimizer.init, params):
        remedy = REMEDIES.get(owner, ANY_REMEDY.format(field=field))
        notice(
            f"the parameters to evaluate must be known, got an optimizer whose {owner} holds a "
            f"copy of them in {field!r}; every evaluation of this run takes those that are "
            f"trained, state.params: {remedy}"
        )


def without_pairs(opt_state: Any) -> Any:
    """The state, unless its optimizer needs a pair of parameters in the place of the parameters.

    Raises:
        ValueError: it is that of `optax.lookahead`.
    """

    def is_pair(node: Any) -> bool:
        return isinstance(node, optax.LookaheadState)

    if any(map(is_pair, jax.tree.leaves(opt_state, is_leaf=is_pair))):
        raise ValueError(
            "an optimizer must take the parameters as the model has them, got optax.lookahead, "
            "which wants a pair of fast and slow ones; pass optimizers.lookahead(optimizer), whose "
            "state holds the slow ones"
        )
    return opt_state


def copies_in(init: Callable[[Any], Any], params: Any) -> list[tuple[str, str]]:
    """The class and field of each part of a state that holds values of the parameters.

    Left out are the states that say which field is evaluated, and those of `FOR_OTHER_ENDS`.

    Example:
        >>> copies_in(optax.adam(0.1).init, jnp.ones(3))
        []
        >>> copies_in(optax.contrib.schedule_free_sgd(0.1).init, jnp.ones(3))
        [('ScheduleFreeState', 'z')]
    """
    shapes = {jnp.shape(leaf) for leaf in jax.tree.leaves(params)}
    if not shapes:
        return []
    program, state = jax.make_jaxpr(init, return_shape=True)(params)
    moving: set[Var] = set(program.jaxpr.invars)
    for equation in program.jaxpr.eqns:
        if _any_in(equation.invars, moving):
            moving.update(equation.outvars)
    marks = [
        _any_in([each], moving) and jnp.shape(each.aval) in shapes for each in program.jaxpr.outvars
    ]
    marked = jax.tree.unflatten(jax.tree.structure(state), marks)
    found = dict.fromkeys(_owners(marked, "state", ""))
    return [each for each in found if each[0] not in FOR_OTHER_ENDS]


def _any_in(atoms: Sequence[Any], moving: set[Var]) -> bool:
    return any(not isinstance(each, Literal) and each in moving for each in atoms)


def _owners(node: Any, owner: str, field: str) -> Iterator[tuple[str, str]]:
    """The owners of the leaves that are True."""
    if isinstance(node, bool):
        if node:
            yield owner, field
        return
    if evaluates(node):  # the outermost one says what is evaluated, whatever is inside it
        return
    fields = getattr(node, "_fields", None)
    if fields is None and dataclasses.is_dataclass(node):
        fields = [each.name for each in dataclasses.fields(node)]
    if fields is not None:
        for each in fields:
            yield from _owners(getattr(node, each), type(node).__name__, each)
        return
    below = jax.tree.leaves(node, is_leaf=lambda child: child is not node)
    for child in below:
        yield from _owners(child, owner, field)
