"""Which axes of a model's parameters are widths, and what each parameter does with them."""

import math
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdl.calling import GivenMode, call_model, initial_variables, name_of
from jaxdl.checks import require_choice
from jaxdl.tracing.axis_uses import AxisUse, axis_uses
from jaxdl.training.widths.width_rules import ROLES


class WidthRole(NamedTuple):
    """What a parameter does with the widths that grow.

    Attributes:
        name: its path, joined by "/".
        shape: in the model.
        wide: its axes that are wider than in the other model.
        role: "input" feeds units of a width (also every bias, scale and table of embeddings),
            "output" reads a width, "hidden" does both, "fixed" neither.
        reads: its wide axes that are summed over.
        feeds: its wide axes that the result keeps.
    """

    name: str
    shape: tuple[int, ...]
    wide: tuple[int, ...]
    role: str
    reads: tuple[int, ...] = ()
    feeds: tuple[int, ...] = ()

    def ratios(self, base: tuple[int, ...]) -> tuple[float, float]:
        """How many times as many values it reads, and units it feeds, as one of the base's shape.

        Example:
            >>> WidthRole("kernel", (32, 16), (0, 1), "hidden", (0,), (1,)).ratios((8, 8))
            (4.0, 2.0)
        """
        r_in, r_out = (
            math.prod(self.shape[axis] / base[axis] for axis in axes)
            for axes in (self.reads, self.feeds)
        )
        return float(r_in), float(r_out)


def parameter_shapes(model: Any, inputs: Any, mode: GivenMode) -> dict[str, Any]:
    """The shapes of a model's variables; nothing is computed."""
    shapes: dict[str, Any] = jax.eval_shape(
        lambda inputs: initial_variables(model, jax.random.key(0), inputs, mode=mode), inputs
    )
    return shapes


def names_of(params: Any) -> list[str]:
    """The paths of the leaves, joined by "/"."""
    return [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]


def shapes_by_name(params: Any) -> dict[str, tuple[int, ...]]:
    """The shape of each leaf."""
    leaves = map(jnp.shape, jax.tree.leaves(params))
    return dict(zip(names_of(params), leaves, strict=True))


def wide_axes(
    of_model: Mapping[str, tuple[int, ...]],
    of_other: Mapping[str, tuple[int, ...]],
    other: str = "base",
) -> dict[str, tuple[int, ...]]:
    """The axes whose lengths differ, by parameter.

    Raises:
        ValueError: the two have not the same parameters with as many axes, or no axis differs.

    Example:
        >>> wide_axes({"a": (2, 8), "b": (8,)}, {"a": (2, 4), "b": (4,)})
        {'a': (1,), 'b': (0,)}
    """
    apart = sorted(of_model.keys() ^ of_other.keys())
    apart += [
        name
        for name in of_model.keys() & of_other.keys()
        if len(of_model[name]) != len(of_other[name])
    ]
    if apart:
        raise ValueError(
            f"model and {other} must have the same parameters and differ in widths alone, got "
            f"{listed(apart)} in one only, or with other axes; build both with the same depth and "
            "settings"
        )
    found = {}
    for name, shape in of_model.items():
        pairs = zip(shape, of_other[name], strict=True)
        found[name] = tuple(axis for axis, (a, b) in enumerate(pairs) if a != b)
    if not any(found.values()):
        raise ValueError(
            f"a width must change the shape of a parameter, and model and {other} have the same "
            f"{len(found)} shapes; pass a {other} of another width, or, where the model is as wide "
            "as its base, delta=, a model of another width"
        )
    return found


def roles_of(
    model: Any,
    variables: Mapping[str, Any],
    inputs: Any,
    wide: Mapping[str, tuple[int, ...]],
    given: Mapping[str, str],
    mode: GivenMode,
) -> tuple[WidthRole, ...]:
    """What each parameter does, by tracing the model in evaluation; nothing is computed.

    Arguments:
        variables: the model's, or their shapes.
        wide: by parameter, its axes that grow.
        given: by pattern a role that is given, and not found.

    Raises:
        ValueError: a parameter whose use is not understood, or that reads a width in one place and
            feeds it in another; a pattern that fits none; a role that is none.
    """
    params = variables["params"]
    shapes = shapes_by_name(params)
    chosen: dict[str, str] = {}
    for pattern, role in given.items():
        require_choice(f"the role of {pattern!r}", role, ROLES)
        chosen |= dict.fromkeys(fitting(pattern, shapes, "roles"), role)
    uses = _uses(model, variables, inputs, mode)
    return tuple(
        _role(name, shape, wide[name], uses[name], chosen.get(name))
        for name, shape in shapes.items()
    )


def fitting(pattern: str, names: Iterable[str], argument: str) -> list[str]:
    """The parameters that a pattern names, as in `optimizers.by_layer`.

    Raises:
        ValueError: it names none.
    """
    found = [name for name in names if any(fnmatchcase(name, p) for p in (pattern, f"{pattern}/*"))]
    if not found:
        raise ValueError(
            f"a pattern of {argument} must fit a parameter, and {pattern!r} fits none of "
            f"{listed(list(names))}; pass the beginning of a name, or e.g. '*/query/*'"
        )
    return found


def listed(names: list[str], most: int = 12) -> str:
    """The names, of many only the first."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _uses(
    model: Any, variables: Mapping[str, Any], inputs: Any, mode: GivenMode
) -> dict[str, set[AxisUse]]:
    def outputs(variables: Any, inputs: Any, key: Any) -> Any:
        return call_model(model, variables, inputs, train=False, dropout_key=key, mode=mode)[0]

    key = jax.eval_shape(lambda: jax.random.key(0))
    program = jax.make_jaxpr(outputs)(dict(variables), inputs, key)
    tree = jax.tree_util.tree_leaves_with_path((dict(variables), inputs, key))
    places = [
        number
        for number, (path, _) in enumerate(tree)
        if path[0] == jax.tree_util.SequenceKey(0) and path[1] == jax.tree_util.DictKey("params")
    ]
    found = axis_uses(program.jaxpr, places)
    names = names_of(variables["params"])
    if len(names) != len(places):
        raise ValueError(f"{name_of(model)} must have its parameters under 'params'")
    return {name: found[place] for name, place in zip(names, places, strict=True)}


def _role(
    name: str,
    shape: tuple[int, ...],
    wide: tuple[int, ...],
    uses: set[AxisUse],
    given: str | None,
) -> WidthRole:
    growing = frozenset(wide)
    if not wide or (not uses and given is None):
        return WidthRole(name, shape, wide, "fixed")
    if given is not None:
        return _as_given(name, shape, wide, given)
    if not all(use.clear for use in uses):
        raise ValueError(
            f"a parameter must meet the inputs in one product, and {name} {shape} is used in a way "
            f'that is not understood; say what it does, roles={{"{name}": "hidden"}}, or "input" '
            'or "output"'
        )
    found = {(use.reads & growing, use.feeds & growing) for use in uses}
    # A test of one of its numbers, or a norm of all, is no use of a width beside a product.
    found = {pair for pair in found if any(pair)} or found
    roles = {_ROLES[bool(reads), bool(feeds)] for reads, feeds in found}
    if len(found) > 1 and len(roles) > 1:
        raise ValueError(
            f"a parameter must do one thing with a width, and {name} {shape} is "
            f"{' and '.join(sorted(roles))} at once, as a table that the head shares; give the "
            f'head weights of its own, or say roles={{"{name}": "input"}} and pass '
            "multipliers={...} for the norm before the head, see the guide to parametrisation"
        )
    reads = frozenset().union(*(pair[0] for pair in found))
    feeds = frozenset().union(*(pair[1] for pair in found))
    if left := growing - reads - feeds:
        raise ValueError(
            f"an axis that grows must be a width, and axis {min(left)} of {name} {shape} is "
            "neither summed over nor kept: it counts layers or rows of a table; give base and "
            "model the same depth and the same tables"
        )
    if both := reads & feeds:
        raise ValueError(
            f"an axis must be summed over or kept, and axis {min(both)} of {name} {shape} is both; "
            f'say what it does, roles={{"{name}": "hidden"}}, or "input" or "output"'
        )
    (role,) = roles
    return WidthRole(name, shape, wide, role, tuple(sorted(reads)), tuple(sorted(feeds)))


_ROLES = {
    (True, True): "hidden", (True, False): "output", (False, True): "input",
    (False, False): "fixed",
}  # fmt: skip


def _as_given(name: str, shape: tuple[int, ...], wide: tuple[int, ...], role: str) -> WidthRole:
    """A role that is given; of a hidden one the last wide axis is kept, as in Flax."""
    if role == "hidden" and len(wide) < 2:
        raise ValueError(
            f"a hidden parameter must have two axes that grow, and {name} {shape} has "
            f'{len(wide)}; say "input" or "output"'
        )
    reads = {"input": (), "fixed": (), "output": wide, "hidden": wide[:-1]}[role]
    feeds = {"input": wide, "fixed": (), "output": (), "hidden": wide[-1:]}[role]
    return WidthRole(name, shape, wide, role, reads, feeds)
