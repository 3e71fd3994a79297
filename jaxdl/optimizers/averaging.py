"""Averages of the parameters over a run, chained after an optimizer."""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from jaxdl.checks import require_at_least, require_decay
from jaxdl.factories import factory
from jaxdl.optimizers.moments import bias_correction
from jaxdl.optimizers.precision import narrowed


class AverageState(NamedTuple):
    """The updates seen, the values averaged, and the average (at first the parameters)."""

    step: Int[Array, ""]
    averaged: Int[Array, ""]
    average: optax.Params

    @property
    def evaluated_field(self) -> str:
        """The name of the field that is evaluated."""
        return "average"


@factory
def ema(decay: Any = 0.999, *, debias: bool = False) -> optax.GradientTransformation:
    r"""An exponential moving average of the parameters.

    $$\bar\theta_1 = \theta_1, \qquad \bar\theta_t = \beta\bar\theta_{t-1} + (1-\beta)\theta_t$$

    The first value also has the weight of all that would have come before it. Debiased, each value
    has the weight of its age alone:

    $$\bar\theta_t = \frac{1-\beta}{1-\beta^t} \sum_{i=1}^{t} \beta^{t-i}\theta_i$$

    Chain it after the optimizer: `chain(adam(1e-3), ema(0.999))`. It passes the updates on
    unchanged and averages each new value of the parameters; `averaged_parameters` reads the
    average. The running statistics of norms belong to the parameters of the run, not to their
    average: `fit(recalibrate=True)` evaluates with those of the average.

    PyTorch: the defaults, its `AveragedModel` with `get_ema_multi_avg_fn(decay)`.

    Arguments:
        decay: beta, in [0, 1).
        debias: whether the first value has no more weight than its age gives it.

    Raises:
        ValueError: a decay outside [0, 1).

    Example:
        >>> from jaxdl import optimizers
        >>> optimizer = optimizers.chain(optimizers.sgd(1.0), ema(0.5))
        >>> params, state = 0.0, optimizer.init(0.0)
        >>> for _ in range(3):                       # 1, 2, 3
        ...     updates, state = optimizer.update(-1.0, state, params)
        ...     params = params + updates
        >>> averaged_parameters(state).item()
        2.25

    Source: Polyak and Juditsky (1992); Tarvainen and Valpola (2017), eq. 1.
    """
    require_decay("decay", decay)

    def weight_of_new(count: Array) -> Any:
        return (1 - decay) * (bias_correction(decay, count + 1) if debias else 1.0)

    return average(lambda step: True, weight_of_new)


@factory
def swa(*, start: SupportsIndex = 0, every: SupportsIndex = 1) -> optax.GradientTransformation:
    r"""Stochastic weight averaging: the equal average of the parameters after some update.

    $$\bar\theta \leftarrow \bar\theta + \frac{\theta_t - \bar\theta}{n + 1}$$

    after update t = start + every, start + 2 every, ..., with n the parameters averaged so far.
    Before that, the average is the parameters themselves. Chain it like `ema`.

    PyTorch: the defaults, its `AveragedModel`.

    Arguments:
        start: updates before the averaging begins, 0 or more.
        every: updates from one averaged value to the next, at least 1; an epoch in the paper.

    Raises:
        ValueError: a negative start, every below 1.

    Example:
        >>> from jaxdl import optimizers
        >>> optimizer = optimizers.chain(optimizers.sgd(1.0), swa(start=1))
        >>> params, state = 0.0, optimizer.init(0.0)
        >>> for _ in range(3):                       # 1, 2, 3
        ...     updates, state = optimizer.update(-1.0, state, params)
        ...     params = params + updates
        >>> averaged_parameters(state).item()
        2.5

    Source: Izmailov et al. (2018), algorithm 1.
    """
    require_at_least(0, start=start)
    require_at_least(1, every=every)
    first, apart = operator.index(start), operator.index(every)
    return average(
        lambda step: (step > first) & ((step - first) % apart == 0), lambda count: 1 / (count + 1)
    )


def average(
    is_taken: Callable[[Array], Any], weight_of_new: Callable[[Array], Any]
) -> optax.GradientTransformation:
    """A link that averages the parameters after the steps for which `is_taken` is true."""

    def init_fn(params: Any) -> AverageState:
        zero = jnp.zeros((), jnp.int32)
        # Copies, because a buffer used twice could not be donated.
        start = jax.tree.map(lambda theta: jnp.array(theta, _wide(theta)), params)
        return AverageState(zero, jnp.zeros((), jnp.int32), start)

    def update_fn(
        updates: Any, state: AverageState, params: Any = None
    ) -> tuple[Any, AverageState]:
        if params is None:
            raise ValueError("an average needs the parameters: update(grads, state, params)")
        step = optax.safe_increment(state.step)
        taken = jnp.asarray(is_taken(step))
        weight = jnp.where(taken, weight_of_new(state.averaged), 0.0)
        weight = jnp.where(state.averaged == 0, 1.0, weight)

        def towards(old: Array, theta: Array) -> Array:
            return (old + weight * (theta - old)).astype(old.dtype)

        new = optax.apply_updates(params, updates)
        mean = jax.tree.map(towards, state.average, new)
        return updates, AverageState(step, state.averaged + taken, mean)

    return optax.GradientTransformation(init_fn, update_fn)


def _wide(theta: Any) -> Any:
    """The type in which a parameter is averaged: float32 at least, for bfloat16 would stall."""
    own = jnp.result_type(theta)
    return jnp.promote_types(own, jnp.float32) if jnp.issubdtype(own, jnp.inexact) else own


def evaluated_parameters(opt_state: optax.OptState, params: Any) -> Any:
    """The parameters to evaluate: those that the optimizer holds for it, or else `params`.

    `ema` and `swa` hold their average, `schedule_free` its x, `lookahead` its slow weights, in any
    wrapper. They have the parameters' types here; in the state they have float32 at least.
    Parameters that are left out, such as those frozen around an average, are themselves. Groups of
    `by_layer` may each have an average of their own.

    A state of your own takes part if its class, a named tuple, says which of its fields holds them:
    `evaluated_field = "average"`. The field has the structure of the parameters.

    Every evaluation of a run asks. Running statistics of norms belong to `params`:
    `fit(recalibrate=True)` takes those of what is evaluated, and so does `training.recalibrate`.

    Raises:
        ValueError: the state holds two averages of one parameter.

    Example:
        >>> from jaxdl import optimizers
        >>> evaluated_parameters(optimizers.sgd(0.1).init(1.0), 1.0)
        1.0
        >>> evaluated_parameters(optimizers.chain(optimizers.sgd(0.1), ema()).init(2.0), 1.0).item()
        2.0
    """
    found = params
    averaged = jax.tree.map(lambda _: False, params)
    for node in evaluating_nodes(opt_state):
        held = getattr(node, node.evaluated_field)
        if any(jax.tree.leaves(_where_held(lambda _, mark: mark, held, averaged, False))):
            raise ValueError(
                "opt_state must hold one average of each parameter, and this one holds two of "
                "some; chain one of ema, swa, schedule_free and lookahead"
            )
        averaged = _where_held(lambda *_: True, held, averaged)
        found = _where_held(as_parameter, held, found)
    return found


def as_parameter(held: Any, theta: Any) -> Any:
    """A leaf of the state in the parameter's type; a pair of parts makes a complex number."""
    if jnp.iscomplexobj(theta) and not jnp.iscomplexobj(held):
        return narrowed(held, theta)
    return held.astype(jnp.result_type(theta))


def evaluating_nodes(opt_state: optax.OptState) -> list[Any]:
    """The outermost parts of a state that say which parameters are evaluated.

    Example:
        >>> from jaxdl import optimizers
        >>> state = optimizers.chain(optimizers.sgd(0.1), ema()).init(2.0)
        >>> [type(node).__name__ for node in evaluating_nodes(state)]
        ['AverageState']
    """
    return [node for node in jax.tree.leaves(opt_state, is_leaf=evaluates) if evaluates(node)]


def evaluates(node: Any) -> bool:
    """Whether a part of an optimizer's state says which parameters are evaluated."""
    return isinstance(getattr(node, "evaluated_field", None), str)


_OTHERS = object()


def _where_held(function: Any, held: Any, tree: Any, others: Any = _OTHERS) -> Any:
    """The function of both trees where something is held, elsewhere the tree or a value."""

    def value(mean: Any, leaf: Any) -> Any:
        if not isinstance(mean, optax.MaskedNode):
            return function(mean, leaf)
        return leaf if others is _OTHERS else others

    return jax.tree.map(value, held, tree, is_leaf=lambda node: isinstance(node, optax.MaskedNode))


def averaged_parameters(opt_state: optax.OptState) -> Any:
    """The average that `ema` or `swa` keeps in an optimizer's state, in float32 at least.

    Of `schedule_free` it is x, of `lookahead` the slow weights.

    Raises:
        ValueError: the state holds no average, or more than one.

    Example:
        >>> from jaxdl import optimizers
        >>> averaged_parameters(optimizers.chain(optimizers.sgd(0.1), ema()).init({"w": 1.0}))
        {'w': Array(1., ...)}
    """
    found = evaluating_nodes(opt_state)
    if len(found) != 1:
        raise ValueError(
            f"opt_state must hold one average of the parameters, and this one holds {len(found)}; "
            "chain ema or swa after the optimizer: optimizers.chain(adam(1e-3), ema(0.999))"
        )
    return getattr(found[0], found[0].evaluated_field)
