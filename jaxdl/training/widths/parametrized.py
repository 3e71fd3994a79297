"""A model with the starts and the rates of a parametrisation."""

import functools
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from rich.box import SIMPLE_HEAD
from rich.table import Table

from jaxdl.calling import GivenMode, initial_variables, name_of
from jaxdl.checks import require_choice, require_key
from jaxdl.optimizers import (
    adagrad,
    adam,
    adamax,
    adamw,
    chain,
    lion,
    momentum,
    muon,
    nadam,
    nesterov,
    radam,
    rmsprop,
    sgd,
)
from jaxdl.showing import counted, html_of, named, number
from jaxdl.training.widths.width_roles import listed, names_of
from jaxdl.training.widths.width_rules import RULES
from jaxdl.training.widths.width_updates import scale_by_name, undo_in_decay

RULE_OF: dict[Any, str] = {
    **dict.fromkeys((sgd, momentum, nesterov), "sgd"),
    **dict.fromkeys((adam, adamw, adamax, nadam, radam, rmsprop, adagrad, lion), "adam"),
}
"""Whether an optimizer's update grows with the gradient, or does not know its size."""

DECOUPLED: frozenset[Any] = frozenset((adamw, lion, muon, optax.adamw, optax.adamaxw, optax.lion))
"""The optimizers of which the update is -rate (direction + weight_decay theta)."""


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
        factory: Any,
        learning_rate: Any,
        *,
        rule: str | None = None,
        **settings: Any,
    ) -> optax.GradientTransformation:
        r"""The optimizer at a rate of the base, with which the model learns as the base does.

        $$\theta_{k} \leftarrow \theta_{k} - f_k\, \eta\, d_k - \eta \lambda\, \theta_k$$

        with the factor f_k of each parameter and the optimizer's direction d. A decoupled decay
        lambda, as that of `adamw`, `lion` and `muon` here and of `adamw`, `adamaxw` and `lion` in
        optax, is not multiplied: the weights decay by the same share a step at every width. (The
        package mup divides the rate and multiplies the decay, which is the same.) Any other decay,
        such as that inside the norm of `lamb`, is a part of the direction.

        Arguments:
            factory: such as `optimizers.adam`: called with the rate and the settings.
            learning_rate: the base's: a float, a schedule, a traced array or a plateau.
            rule: "sgd" if the update grows with the gradient, "adam" if it does not. None knows it
                for the factories of `jaxdl.optimizers`.
            settings: of the factory; what is left out is as the factory has it.

        Raises:
            TypeError: an optimizer that is made already.
            ValueError: a factory that is not known, without a rule; another rule.
        """
        if not callable(factory):
            raise TypeError(
                "factory must be a function of the rate that makes an optimizer, such as "
                f"optimizers.adam, got {factory!r}; pass the function, or scale an optimizer that "
                'is made already: found.scaled(optimizer, "adam") or (optimizer, "sgd")'
            )
        made_by = _without_settings(factory)
        rule = RULE_OF.get(made_by) if rule is None else rule
        if rule is None:
            raise ValueError(
                f"the rule of {getattr(made_by, '__name__', made_by)!r} is not known; pass "
                'rule="sgd" if its update grows with the gradient, or rule="adam" if it does '
                "not know the gradient's size"
            )
        require_choice("rule", rule, RULES)
        inner = factory(learning_rate, **settings)
        if made_by in DECOUPLED and self.kind != "standard":
            inner = undo_in_decay(inner, self._factors(rule))
        return self.scaled(inner, rule)

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
        return chain(optimizer, scale_by_name(self._factors(rule)))

    def _factors(self, rule: str) -> dict[str, float]:
        return {row.name: getattr(row, rule) for row in self.parameters}

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


def _without_settings(factory: Any) -> Any:
    """The function inside a `functools.partial`."""
    while isinstance(factory, functools.partial):
        factory = factory.func
    return factory


def _check_names(rows: tuple[ByWidth, ...], params: Any) -> None:
    if apart := sorted({row.name for row in rows} ^ set(names_of(params))):
        raise ValueError(
            "variables must be those of the parametrisation's model, got other parameters: "
            f"{listed(apart)}; make the parametrisation of this model"
        )
