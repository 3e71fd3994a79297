"""The parametrisation of a model by its width: which start and rate each parameter has."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.calling import GivenMode, prepared
from jaxdl.checks import require_choice, require_positive
from jaxdl.training.widths.parametrized import ByWidth, Parametrization
from jaxdl.training.widths.starts_by_width import start_powers, start_sizes
from jaxdl.training.widths.width_roles import (
    WidthRole,
    fitting,
    listed,
    parameter_shapes,
    roles_of,
    shapes_by_name,
    wide_axes,
)
from jaxdl.training.widths.width_rules import KINDS, Factors, factors


def parametrization(
    kind: Any,
    model: Any,
    base: Any,
    inputs: Any,
    *,
    delta: Any = None,
    roles: Mapping[str, str] | None = None,
    multipliers: Mapping[str, float] | None = None,
    mode: GivenMode = None,
) -> Parametrization:
    r"""How a model of any library starts and learns, so that a rate of a narrow base fits it.

    Two models of one kind and of different widths say which axes of each parameter grow. The traced
    model says which of them are summed over (fan_in) and which are units (fan_out). Let these be
    r_in and r_out times as many as in the base, sigma the base's standard deviation and eta its
    rate. Under "maximal_update":

    | parameter | what grows | start | rate, SGD | rate, Adam |
    | --- | --- | --- | --- | --- |
    | input, bias, scale | fan_out | sigma | eta r_out | eta |
    | hidden | both | sigma / sqrt(r_in) | eta r_out / r_in | eta / r_in |
    | output | fan_in | sigma / r_in | eta / r_in | eta / r_in |
    | fixed | neither | sigma | eta | eta |

    Under "neural_tangent" hidden and output parameters have sigma / sqrt(r_in), the rate eta / r_in
    with SGD and eta / sqrt(r_in) with Adam, and all others those of the base. "standard" leaves the
    model's own start, and one rate for all.

    Nothing is put into the forward pass: these are the rules of table 3 of the source. Its table 8,
    which the package mup follows, divides the output by the width instead. Both are the same
    network at every step: a weight f w is a weight whose start is f times as large, and whose rate
    is f^2 (SGD) or f (Adam) times as large.

    A factor that the forward pass lacks is folded in by the same rule with `multipliers`. Attention
    divides its logits by sqrt(d), while maximal update asks for 1/d with the width d of a head. So
    where d grows by r from base to model, pass {"*/query": r ** -0.5}, or, with normalised queries,
    the name of their norm's scale. Where the number of heads grows, pass nothing.

    Sizes are measured: the start of base and model (or delta) is drawn several times, so that an
    initializer which shrinks with the width, as that of a table of embeddings, is known from one
    that does not.

    Arguments:
        kind: "standard", "neural_tangent" or "maximal_update".
        model: the model that is trained, of any library, or a `Task`; see `calling.adapt`.
        base: the same with smaller widths; its rates are those that the user gives.
        inputs: a batch of inputs, or `jax.ShapeDtypeStruct` for its arrays; both models take it.
        delta: a third model, with other widths than the base's, from which the growing axes are
            read. It is needed where `model` may be as wide as its base.
        roles: by pattern, as in `optimizers.by_layer`, a role that is not to be found by tracing.
        multipliers: by pattern a positive factor that is folded into start and rate.
        mode: how the model is told of training, as in `Task`.

    Raises:
        TypeError: no model; inputs that are no arrays.
        ValueError: an unknown kind or role; models of other structure, or of the same widths; a
            parameter that reads and feeds a width in two places, such as a table that the head
            shares; a start that is no power of the width; a pattern that fits no parameter; a
            multiplier that is not positive, or one for "standard".

    Example:
        >>> from jaxdl import models, optimizers, training
        >>> x = jnp.ones((1, 4))
        >>> found = training.parametrization(
        ...     "maximal_update", models.MLP([256, 256, 3]), models.MLP([64, 64, 3]), x)
        >>> [(row.role, row.adam) for row in found.parameters if "kernel" in row.name]
        [('input', 1.0), ('hidden', 0.25), ('output', 0.25)]
        >>> variables = found.init(jax.random.key(0), x)
        >>> optimizer = found.optimizer(optimizers.adam, 0.01)     # the best rate of the base

    Source: Yang, Hu et al. (2022), Tensor Programs V, tables 3 and 8, appendix B; Jacot, Gabriel
    and Hongler (2018) for the neural tangent parametrisation.
    """
    require_choice("kind", kind, KINDS)
    _check_inputs(inputs)
    with jax.ensure_compile_time_eval():  # sizes are measured, inside of compiled functions, too
        return _parametrization(
            kind, model, base, inputs, delta=delta, roles=roles, multipliers=multipliers, mode=mode
        )


def _parametrization(
    kind: str,
    model: Any,
    base: Any,
    inputs: Any,
    *,
    delta: Any,
    roles: Mapping[str, str] | None,
    multipliers: Mapping[str, float] | None,
    mode: GivenMode,
) -> Parametrization:
    whole, multipliers = prepared(model, mode), dict(multipliers or {})
    narrow = prepared(base, mode)
    inputs = jax.eval_shape(whole.preprocess, inputs)
    like = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), inputs)
    shapes, of_base = (
        shapes_by_name(parameter_shapes(each.model, inputs, each.mode)["params"])
        for each in (whole, narrow)
    )
    if kind == "standard":
        if multipliers:
            raise ValueError(
                'multipliers belong to a parametrisation, got them for "standard", which changes '
                "nothing; leave them out"
            )
        rows = tuple(ByWidth(name, "fixed", *[1.0] * 6) for name in shapes)
        return Parametrization(kind, whole.model, rows, whole.mode)
    third = whole if delta is None else prepared(delta, mode)
    variables = parameter_shapes(third.model, inputs, third.mode)
    of_third = shapes_by_name(variables["params"])
    wide = wide_axes(of_third, of_base)
    _check_axes(shapes, of_base, wide)
    found = roles_of(third.model, variables, like, wide, roles or {}, third.mode)
    powers = start_powers(
        start_sizes(third.model, like, third.mode),
        start_sizes(narrow.model, like, narrow.mode),
        _references(found, of_base),
    )
    folded = dict.fromkeys(shapes, 1.0)
    for pattern, factor in multipliers.items():
        require_positive(f"the multiplier of {pattern!r}", factor)
        for name in fitting(pattern, shapes, "multipliers"):
            folded[name] *= float(factor)
    found = tuple(role._replace(shape=shapes[role.name]) for role in found)
    references = _references(found, of_base)
    rows = tuple(
        _row(
            kind,
            role,
            of_base[role.name],
            references[role.name][powers[role.name].place] ** powers[role.name].power,
            folded[role.name],
        )
        for role in found
    )
    return Parametrization(kind, whole.model, rows, whole.mode)


def _check_inputs(inputs: Any) -> None:
    numbers = [each for each in jax.tree.leaves(inputs) if not hasattr(each, "shape")]
    if numbers:
        raise TypeError(
            "inputs must be a batch of arrays, or jax.ShapeDtypeStruct in their places, got the "
            f"bare {type(numbers[0]).__name__} {numbers[0]!r}; of a shape make "
            "jax.ShapeDtypeStruct((1, 28, 28), jnp.float32), of a list jnp.asarray(inputs)"
        )


def _references(
    roles: tuple[WidthRole, ...], of_base: Mapping[str, tuple[int, ...]]
) -> dict[str, list[float]]:
    """The ratios by which a start may be measured, the usual one first.

    That is the fan_in's, else the fan_out's; then the fan_out's beside a fan_in, and, for what
    reads no width, as the biases of Equinox and PyTorch, the fan_ins of its layer.
    """
    ratios = {role.name: role.ratios(of_base[role.name]) for role in roles}
    found = {}
    for role in roles:
        r_in, r_out = ratios[role.name]
        layer = role.name.rpartition("/")[0]
        beside = [
            ratios[other.name][0]
            for other in roles
            if other.reads and other.name.rpartition("/")[0] == layer
        ]
        found[role.name] = [r_in, r_out] if role.reads else [r_out, *beside]
    return found


def _row(
    kind: str, role: WidthRole, base: tuple[int, ...], own: float, multiplier: float
) -> ByWidth:
    """`own`: the size of the model's start over the base's."""
    r_in, r_out = role.ratios(base)
    wanted: Factors = factors(kind, role.role, r_in, r_out, multiplier)
    return ByWidth(
        role.name, role.role, r_in, r_out, wanted.start / own, wanted.start, wanted.sgd, wanted.adam
    )


def _check_axes(
    of_model: Mapping[str, tuple[int, ...]],
    of_base: Mapping[str, tuple[int, ...]],
    wide: Mapping[str, tuple[int, ...]],
) -> None:
    """Refuse a model that differs from the base in an axis that delta does not change."""
    if of_model != of_base:
        differing = wide_axes(of_model, of_base)
        more = sorted(name for name, axes in differing.items() if not {*axes} <= {*wide[name]})
        if more:
            raise ValueError(
                "delta must change every width in which the model differs from its base, got the "
                f"base's width in {listed(more)}; build delta with all widths changed"
            )
