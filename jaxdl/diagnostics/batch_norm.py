"""The running statistics of batch norms: made exact, and told when they are wrong."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxdl.diagnostics.advice import Advice
from jaxdl.layers import BatchNorm
from jaxdl.training.state import train_argument
from jaxdl.training.steps import scale_images

Path = tuple[str, ...]

# A running mean this many standard deviations from the batch's, or a running variance this many
# times larger or smaller, is not of the same data: a batch of 100 is off by 0.1 and by 1.2.
FAR_MEAN = 1.0
FAR_VARIANCE = 4.0


class Moments(NamedTuple):
    """Of a batch, per feature: how many values, their mean, the sum of squares about it."""

    number: Array
    mean: Array
    squares: Array


def recalibrate(
    model: nn.Module,
    variables: Mapping[str, Any],
    batches: Iterable[Any],
    *,
    preprocess: Callable[[Array], Array] = scale_images,
) -> dict[str, Any]:
    r"""The variables with the statistics of all batches in the place of the running averages.

    $$\mu = \frac{1}{N}\sum_b n_b\,\mu_b, \qquad
      \sigma^2 = \frac{1}{N}\sum_b \bigl(n_b\,\sigma_b^2 + n_b(\mu_b - \mu)^2\bigr)$$

    over the values that reach each norm, in one pass, combined in float64; times N / (N - 1) where
    the norm keeps the unbiased variance. They are what one batch of everything would give, and
    not the mean of the batches' variances, which leaves the spread between batches out.

    In this pass the norms before a norm use their batch's own statistics, as in training: with
    large batches that is the same. Dropout is off, as it will be in evaluation.

    Arguments:
        model: a Linen module with `jaxdl.layers.BatchNorm` or `flax.linen.BatchNorm` in it.
        variables: {"params": ..., "batch_stats": ...}; left as they are.
        batches: inputs, or mappings that hold them as "inputs"; the training set, in any order.
        preprocess: a pure function of a batch's inputs, as in `training.fit`.

    Raises:
        ValueError: a model without batch norms, or no batches.

    Example:
        >>> import functools, jax, jax.numpy as jnp
        >>> from jaxdl import models
        >>> x = 5 + jax.random.normal(jax.random.key(0), (100, 3))
        >>> model = models.MLP([4, 1], norm=BatchNorm)
        >>> variables = model.init(jax.random.key(1), x, train=False)
        >>> exact = recalibrate(model, variables, [x[:60], x[60:]])
        >>> hidden = x @ variables["params"]["dense_0"]["kernel"]
        >>> bool(jnp.allclose(exact["batch_stats"]["norm_0"]["mean"], hidden.mean(0), rtol=1e-5))
        True

    Source: Ioffe and Szegedy (2015), algorithm 2; Wu and Johnson (2021), section 3.
    """
    try:
        moments_of, keeps_unbiased = _kept_program(model, preprocess)
    except TypeError:  # a field of the model that cannot be hashed: compiled for this call
        moments_of, keeps_unbiased = _program(model, preprocess)
    total: dict[Path, Moments] = {}
    for batch in batches:
        inputs = jnp.asarray(batch["inputs"] if isinstance(batch, Mapping) else batch)
        found = jax.tree.map(
            lambda leaf: np.asarray(leaf, np.float64), moments_of(variables, inputs)
        )
        total = {
            path: combined(total[path], new) if path in total else new
            for path, new in found.items()
        }
    if not total:
        raise ValueError(
            f"batches must reach a batch norm of the model, got none through "
            f"{type(model).__name__}; pass a model with norm=BatchNorm and at least one batch"
        )
    statistics = jax.tree.map(lambda leaf: leaf, dict(variables["batch_stats"]))
    for path, (count, mean, squares) in total.items():
        node = statistics
        for name in path:
            node = node[name]
        variance = squares / (count - 1 if keeps_unbiased[path] else count)
        for name, value in (("mean", mean), ("var", variance)):
            node[name] = jnp.asarray(value, node[name].dtype)
    return {**variables, "batch_stats": statistics}


def _program(
    model: nn.Module, preprocess: Callable[[Array], Array]
) -> tuple[Callable[..., dict[Path, Moments]], dict[Path, bool]]:
    """(variables, inputs) -> moments by norm, compiled; and whose variances are unbiased."""
    keeps_unbiased: dict[Path, bool] = {}

    @jax.jit
    def moments_of(variables: Any, inputs: Array) -> dict[Path, Moments]:
        seen: dict[Path, Moments] = {}

        def watch(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            module = context.module
            if context.method_name == "__call__" and isinstance(module, nn.Dropout):
                return args[0]
            if context.method_name == "__call__" and is_batch_norm(module):
                new = moments(args[0], feature_axis(module))
                seen[module.path] = combined(seen[module.path], new) if module.path in seen else new
                keeps_unbiased[module.path] = getattr(module, "unbiased_variance", False)
            return call(*args, **kwargs)

        with nn.intercept_methods(watch):
            model.apply(
                variables, preprocess(inputs), **train_argument(model, True),
                mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)},
            )  # fmt: skip
        return seen

    return moments_of, keeps_unbiased


_kept_program = functools.lru_cache(maxsize=16)(_program)


def moments(x: Array, axis: int) -> Moments:
    """Of all axes but the features', in two passes."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    x = jnp.moveaxis(x, axis, -1).reshape(-1, x.shape[axis]).astype(dtype)
    mean = x.mean(0)
    return Moments(jnp.asarray(len(x), dtype), mean, jnp.square(x - mean).sum(0))


def combined(one: Moments, other: Moments) -> Moments:
    """Those of both batches together (Chan, Golub and LeVeque, 1979)."""
    count = one.number + other.number
    apart = other.mean - one.mean
    return Moments(
        count,
        one.mean + apart * (other.number / count),
        one.squares + other.squares + apart**2 * (one.number * other.number / count),
    )


def is_batch_norm(module: Any) -> bool:
    """Whether a module keeps running statistics that this file understands."""
    return isinstance(module, (BatchNorm, nn.BatchNorm))


def feature_axis(module: Any) -> int:
    """The axis that is not reduced."""
    return module.feature_axis if isinstance(module, BatchNorm) else module.axis


def check_batch_norm(
    model: nn.Module,
    variables: Mapping[str, Any],
    inputs: Any,
    *,
    outputs: Any = None,
    preprocess: Callable[[Array], Array] = scale_images,
) -> tuple[Advice, ...]:
    """What is wrong with a trained model's batch norms, if anything, and what to change.

    - "never moved": running statistics that are still those of `init`: training threw away the
      `batch_stats` that `apply` returned.
    - "other data": running statistics far from those of these inputs (the mean by more than one
      standard deviation, the variance fourfold): a momentum too near 1 for the steps made, batches
      that are too small, inputs prepared in another way, or weights that moved since.
    - "training mode": `outputs`, what the user's own evaluation gave for `inputs`, are those of
      `train=True`, whose results depend on the other examples of the batch.

    Arguments:
        model: a Linen module with batch norms.
        variables: as they are evaluated.
        inputs: a batch as the model is evaluated on, of some 100 examples or more.
        outputs: what that evaluation gave for it, to have it checked as well.
        preprocess: a pure function of the inputs, as in `training.fit`.

    Raises:
        ValueError: a model without batch norms.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxdl import models
        >>> x = 5 + jax.random.normal(jax.random.key(0), (100, 3))
        >>> model = models.MLP([4, 1], norm=BatchNorm)
        >>> variables = model.init(jax.random.key(1), x, train=False)
        >>> [each.problem for each in check_batch_norm(model, variables, x)]
        ['never moved']
        >>> check_batch_norm(model, recalibrate(model, variables, [x]), x)
        ()
    """
    inputs = jnp.asarray(inputs)
    stats = variables["batch_stats"]
    exact = recalibrate(model, variables, [inputs], preprocess=preprocess)["batch_stats"]
    now, new = by_norm(stats), by_norm(exact)
    found = []
    still = [path for path, (mean, var) in now.items() if not mean.any() and (var == 1).all()]
    if still:
        found.append(
            Advice(
                "never moved",
                still[0],
                float(len(still)),
                f"the running statistics of {', '.join(still)} are those of init: in training, "
                "keep what apply(..., train=True, mutable=['batch_stats']) returns as "
                "updates['batch_stats'], and evaluate with it",
            )
        )
    far = {
        path: float(np.max(np.abs(mean - new[path][0]) / np.sqrt(new[path][1] + 1e-5)))
        for path, (mean, _) in now.items()
        if path not in still
    }
    wide = {
        path: float(np.max(np.abs(np.log((var + 1e-5) / (new[path][1] + 1e-5)))))
        for path, (_, var) in now.items()
        if path not in still
    }
    for measured, limit, what in (
        (far, FAR_MEAN, "mean of {} is {:.2g} standard deviations from"),
        (wide, np.log(FAR_VARIANCE), "variance of {} is e^{:.2g} times off"),
    ):
        worst = max(measured, key=lambda path: measured[path], default=None)
        if worst is not None and measured[worst] > limit:
            found.append(
                Advice(
                    "other data",
                    worst,
                    measured[worst],
                    f"the running {what.format(worst, measured[worst])} that of these inputs: "
                    "recalibrate, train longer or lower the momentum, and prepare the inputs as in "
                    "training",
                )
            )
    if outputs is not None and (
        said := _in_training_mode(model, variables, inputs, outputs, preprocess)
    ):
        found.append(said)
    return tuple(found)


def _in_training_mode(
    model: nn.Module, variables: Any, inputs: Array, outputs: Any, preprocess: Any
) -> Advice | None:
    given = np.asarray(outputs, np.float64)
    ready = preprocess(inputs)
    evaluated = model.apply(variables, ready, **train_argument(model, False))
    trained, _ = model.apply(
        variables, ready, **train_argument(model, True), mutable=["batch_stats"],
        rngs={"dropout": jax.random.key(0)},
    )  # fmt: skip
    to_evaluation, to_training = (
        float(np.abs(given - np.asarray(other, np.float64)).max()) for other in (evaluated, trained)
    )
    if not to_training < to_evaluation:
        return None
    return Advice(
        "training mode", "outputs", to_evaluation,
        f"the outputs given are those of train=True (within {to_training:.2g}; those of "
        f"train=False are {to_evaluation:.2g} away): pass train=False in evaluation",
    )  # fmt: skip


def by_norm(stats: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The running mean and variance of each norm, by its path."""
    leaves: dict[str, dict[str, np.ndarray]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(stats):
        *parents, name = (str(part.key) for part in path)
        leaves.setdefault("/".join(parents), {})[name] = np.asarray(leaf, np.float64)
    return {
        path: (pair["mean"], pair["var"])
        for path, pair in leaves.items()
        if {"mean", "var"} <= set(pair)
    }
