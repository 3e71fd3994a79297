"""A function of one variable as a data set, to see what a network can approximate."""

from typing import Any

import numpy as np

from jaxdl.checks import require_at_least
from jaxdl.data.types import Arrays, Dataset


def nielsen(x: Any) -> Any:
    r"""The function that Nielsen's chapter on universality approximates on [0, 1].

    $$f(x) = 0.2 + 0.4 x^2 + 0.3 x \sin(15 x) + 0.05 \cos(50 x)$$

    Arguments:
        x: a number or an array of NumPy or JAX, without units.

    Returns:
        Values of the same shape.

    Example:
        >>> round(float(nielsen(0.0)), 12)
        0.25

    Source: Nielsen (2015), Neural Networks and Deep Learning, chapter 4.
    """
    xp = x.__array_namespace__() if hasattr(x, "__array_namespace__") else np
    return 0.2 + 0.4 * x**2 + 0.3 * x * xp.sin(15 * x) + 0.05 * xp.cos(50 * x)


def sample_function(
    function: Any,
    *,
    examples: Any = 1000,
    test_examples: Any = 1000,
    low: Any = 0.0,
    high: Any = 1.0,
) -> Dataset:
    r"""Values of a function of one variable, at the middles of equal cells of an interval.

    $$x_i = a + \left(i + \tfrac{1}{2}\right) \frac{b - a}{n}, \qquad y_i = f(x_i), \qquad
      i = 0, \dots, n - 1$$

    So a mean over the examples is the mean over the interval, by the midpoint rule. Nothing is
    drawn at random; add noise to the targets if there should be some.

    Arguments:
        function: f, of an array (n,), to as many finite values: `nielsen`, `np.sin`, your own.
        examples: n of the training split, at least 1.
        test_examples: n of the test split, at least 1.
        low: a, finite, in the function's units of x.
        high: b, finite, above a.

    Returns:
        A `Dataset` of the function's name: inputs and targets (n, 1), float32.

    Raises:
        TypeError: what cannot be called, or a number of examples that is not whole.
        ValueError: fewer than 1 example, an interval without length, values that are not finite,
            or not one for each x.

    Example:
        >>> waves = sample_function(np.sin, examples=4, high=8.0)
        >>> waves.name, waves.train.inputs.ravel().tolist()
        ('sin', [1.0, 3.0, 5.0, 7.0])
    """
    if not callable(function):
        raise TypeError(
            f"function must be a function of x, got {function!r}; pass e.g. data.nielsen or np.sin"
        )
    require_at_least(1, examples=examples, test_examples=test_examples)
    ends = np.array([low, high], np.float64)
    if not (np.isfinite(ends).all() and ends[0] < ends[1]):
        raise ValueError(
            f"the interval must be finite with low < high, got low={low}, high={high}; swap or "
            "widen them"
        )
    name = getattr(function, "__name__", type(function).__name__)

    def sampled(count: int) -> Arrays:
        x = ends[0] + (np.arange(count) + 0.5) * (ends[1] - ends[0]) / count
        values = np.asarray(function(x))
        if values.shape != x.shape:
            raise ValueError(
                f"{name} must give a value for each of {count} points, got shape {values.shape}; "
                "pass a function of arrays, e.g. np.vectorize(function)"
            )
        if not np.isfinite(values).all():
            raise ValueError(
                f"{name} must be finite on the interval, got {values[~np.isfinite(values)][0]} at "
                f"x = {x[~np.isfinite(values)][0]:.4g}; pass another interval"
            )
        return Arrays(
            inputs=x[:, None].astype(np.float32), targets=values[:, None].astype(np.float32)
        )

    return Dataset(name, train=sampled(examples), validation=None, test=sampled(test_examples))
