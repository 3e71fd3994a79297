"""A network that starts and learns alike at every width, by the parametrisation it is given."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from rich.box import SIMPLE_HEAD
from rich.table import Table

from jaxdl.calling import GivenMode, initial_variables, name_of, prepared
from jaxdl.checks import require_choice, require_key, require_positive
from jaxdl.optimizers import (
    adagrad,
    adam,
    adamax,
    adamw,
    chain,
    decoupled_decay,
    is_kernel,
    lion,
    momentum,
    nadam,
    nesterov,
    radam,
    rmsprop,
    sgd,
)
from jaxdl.showing import counted, html_of, named, number
from jaxdl.training.widths.starts_by_width import start_powers, start_sizes
from jaxdl.training.widths.width_roles import (
    WidthRole,
    fitting,
    listed,
    names_of,
    parameter_shapes,
    roles_of,
    shapes_by_name,
    wide_axes,
)
from jaxdl.training.widths.width_rules import KINDS, RULES, Factors, factors
from jaxdl.training.widths.width_updates import scale_by_name

RULE_OF: dict[Any, str] = {
    **dict.fromkeys((sgd, momentum, nesterov), "sgd"),
    **dict.fromkeys((adam, adamw, adamax, nadam, radam, rmsprop, adagrad, lion), "adam"),
}
"""Whether an optimizer's update grows with the gradient, or does not know its size."""


class ByWidth(NamedTuple):
    """What a parametrisation does to one parameter, in units of the base's.

    Attributes:
        name: its path, joined by "/".
        role: "input", "hidden", "output" or "fixed"; see `parametrization`.
        r_in: how many times as many values it reads as in the base.
        r_out: how many times as many units it feeds.
        rescale: by what the model's own start is multiplied.
        start: the standard deviation of its start over that of the base's.
        sgd: its rate over the base's, for gradient descent with or without a velocity.
        adam: the same for Adam and its like.
    """

    name: str
    role: str
    r_in: float
    r_out: float
    rescale: float
    start: float
    sgd: float
    adam: float


@dataclass(frozen=True)
class Parametrization:
    """How a model starts and learns, beside a narrower base; made by `parametrization`.

    Attributes:
        kind: "standard", "neural_tangent" or "maximal_update".
        model: the model, as of `calling.adapt`.
        parameters: one row for each parameter, in the tree's order.
        mode: how the model is told of training.
    """

    kind: str
    model: Any
    parameters: tuple[ByWidth, ...]
    mode: GivenMode = field(default=None, repr=False)

    def init(self, key: Any, inputs: Any) -> dict[str, Any]:
        """The model's variables before training: its own start, rescaled.

        Arguments:
            key: from `jax.random.key`.
            inputs: a batch of inputs as the model sees them; only shapes and dtypes matter.

        Raises:
            TypeError: no key.
        """
        require_key(key)
        drawn = initial_variables(self.model, key, inputs, mode=self.mode)
        variables: dict[str, Any] = self.rescale(drawn)
        return variables

    def rescale(self, variables: Any) -> Any:
        """Variables as `model.init` draws them, with every parameter at its own size.

        The collections beside the parameters stay as they are.

        Raises:
            ValueError: parameters of another model.
        """
        params = variables["params"]
        _check_names(self.parameters, params)
        structure: Any = jax.tree.structure(params)
        scaled = [
            leaf if row.rescale == 1 else (row.rescale * leaf).astype(jnp.result_type(leaf))
            for row, leaf in zip(self.parameters, jax.tree.leaves(params), strict=True)
        ]
        return {**variables, "params": structure.unflatten(scaled)}

    def optimizer(
        self,
        factory: Callable[..., optax.GradientTransformation],
        learning_rate: Any,
        *,
        rule: str | None = None,
        **settings: Any,
    ) -> optax.GradientTransformation:
        r"""The optimizer at a rate of the base, with which the model learns as the base does.

        $$\theta_{k} \leftarrow \theta_{k} - f_k\, \eta\, d_k - \eta \lambda\, \theta_k$$

        with the factor f_k of each parameter and the optimizer's direction d. A decoupled decay
        lambda, the argument `weight_decay` of `adamw` and `lion`, is not multiplied: the weights
        decay by the same share a step at every width. (The package mup divides the rate and
        multiplies the decay, which is the same.)

        Arguments:
            factory: such as `optimizers.adam`: called with the rate and the settings.
            learning_rate: the base's: a float, a schedule, a traced array or a plateau.
            rule: "sgd" if the update grows with the gradient, "adam" if it does not. None knows it
                for the factories of `jaxdl.optimizers`.
            settings: of the factory.

        Raises:
            ValueError: a factory that is not known, without a rule.
        """
        if rule is None:
            rule = RULE_OF.get(factory)
            if rule is None:
                raise ValueError(
                    f"the rule of {getattr(factory, '__name__', factory)!r} is not known; pass "
                    'rule="sgd" if its update grows with the gradient, or rule="adam" if it does '
                    "not know the gradient's size"
                )
        decays = inspect.signature(factory).parameters
        if "weight_decay" not in decays:
            return self.scaled(factory(learning_rate, **settings), rule)
        decay = settings.pop("weight_decay", decays["weight_decay"].default)
        mask = settings.pop("mask", is_kernel)
        inner = factory(learning_rate, weight_decay=0.0, **settings)
        if isinstance(decay, int | float) and decay == 0:
            return self.scaled(inner, rule)
        return decoupled_decay(self.scaled(inner, rule), decay, mask=mask)

    def scaled(
        self, optimizer: optax.GradientTransformation, rule: str
    ) -> optax.GradientTransformation:
        """An optimizer whose updates are multiplied by each parameter's factor.

        It is right for any chain of which the rate multiplies the whole update. Put averages of
        parameters and a decoupled decay around it, not inside. A clipping of gradients may stand
        before it.

        Arguments:
            optimizer: any optax gradient transformation, at a rate of the base.
            rule: "sgd" or "adam", as in `optimizer`.

        Raises:
            ValueError: another rule.
        """
        require_choice("rule", rule, RULES)
        if self.kind == "standard":
            return optimizer
        return chain(optimizer, scale_by_name({r.name: getattr(r, rule) for r in self.parameters}))

    def table(self) -> Table:
        """A `rich.table.Table` of the parameters: roles, ratios and factors."""
        table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
        table.add_column("parameter", overflow="fold", min_width=10)
        table.add_column("role")
        for name in ("r_in", "r_out", "start x", "rate x,\nSGD", "rate x,\nAdam"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in self.parameters:
            numbers = (row.r_in, row.r_out, row.start, row.sgd, row.adam)
            table.add_row(row.name, row.role, *map(number, numbers))
        return table

    def __rich__(self) -> Table:
        return self.table()

    def __repr__(self) -> str:
        roles = [row.role for row in self.parameters]
        texts = {role: str(roles.count(role)) for role in dict.fromkeys(roles)}
        widest = max(max(row.r_in, row.r_out) for row in self.parameters)
        return (
            f"Parametrization({self.kind}, {name_of(self.model)}, {number(widest)} times as wide; "
            f"{counted(len(roles), 'parameter')}: {named(texts)})"
        )

    def _repr_html_(self) -> str:
        return html_of(repr(self), self.table())


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
        inputs: a batch of inputs, or its shapes; both models take it.
        delta: a third model, with other widths than the base's, from which the growing axes are
            read. It is needed where `model` may be as wide as its base.
        roles: by pattern, as in `optimizers.by_layer`, a role that is not to be found by tracing.
        multipliers: by pattern a positive factor that is folded into start and rate.
        mode: how the model is told of training, as in `Task`.

    Raises:
        TypeError: no model.
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
        {role.name: _reference(role, of_base[role.name]) for role in found},
    )
    folded = dict.fromkeys(shapes, 1.0)
    for pattern, factor in multipliers.items():
        require_positive(f"the multiplier of {pattern!r}", factor)
        for name in fitting(pattern, shapes, "multipliers"):
            folded[name] *= float(factor)
    rows = tuple(
        _row(kind, role._replace(shape=shapes[role.name]), of_base, powers, folded)
        for role in found
    )
    return Parametrization(kind, whole.model, rows, whole.mode)


def _reference(role: WidthRole, base: tuple[int, ...]) -> float:
    """The ratio by which a start is measured: the fan_in's, or the fan_out's where it is fixed."""
    r_in, r_out = role.ratios(base)
    return r_in if role.reads else r_out


def _row(
    kind: str,
    role: WidthRole,
    of_base: Mapping[str, tuple[int, ...]],
    powers: Mapping[str, float],
    folded: Mapping[str, float],
) -> ByWidth:
    base = of_base[role.name]
    r_in, r_out = role.ratios(base)
    wanted: Factors = factors(kind, role.role, r_in, r_out, folded[role.name])
    own = _reference(role, base) ** powers[role.name]
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


def _check_names(rows: tuple[ByWidth, ...], params: Any) -> None:
    if apart := sorted({row.name for row in rows} ^ set(names_of(params))):
        raise ValueError(
            "variables must be those of the parametrisation's model, got other parameters: "
            f"{listed(apart)}; make the parametrisation of this model"
        )
