"""Wrong labels on purpose, to see what a network learns by heart."""

import operator
from typing import SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Int, Key

from jaxdl.checks import is_traced, require_at_least, require_key


def mislabel(
    key: Key[Array, ""], labels: ArrayLike, share: ArrayLike, *, classes: SupportsIndex
) -> Int[Array, " examples"]:
    r"""Replace each label, with a given probability, by one of the other classes.

    $$P(\tilde{y} = y) = 1 - \rho, \qquad P(\tilde{y} = k) = \rho / (K - 1), \quad k \ne y$$

    It is a pure function: the key decides which labels are wrong. With the same key, the labels
    that are wrong at one share are the same wrong ones at every larger share.

    Arguments:
        key: a `jax.random.key`; each split needs its own.
        labels: (n,), integers from 0 to classes - 1.
        share: rho, the probability of a wrong label, from 0 to 1; may be traced.
        classes: K, at least 2.

    Raises:
        TypeError: a key that is no `jax.random.key`, or `classes` that is no whole number.
        ValueError: fewer than 2 classes, a share outside [0, 1], or labels that are no integers.

    Example:
        >>> labels = jnp.array([0, 1, 2, 3])
        >>> mislabel(jax.random.key(0), labels, 0.0, classes=4).tolist()
        [0, 1, 2, 3]
        >>> bool((mislabel(jax.random.key(0), labels, 1.0, classes=4) != labels).all())
        True

    Source: Angluin and Laird (1988); Zhang et al. (2017), section 2, draw from all K classes.
    """
    require_key(key)
    require_at_least(2, classes=classes)
    classes = operator.index(classes)
    if not is_traced(share) and not 0 <= float(np.asarray(share)) <= 1:
        raise ValueError(f"share must be from 0 to 1, got {share}; pass a share of the labels")
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers, got {labels.dtype}; pass the classes' numbers")
    which, where_to = jax.random.split(key)
    is_wrong = jax.random.uniform(which, labels.shape) < share
    shift = jax.random.randint(where_to, labels.shape, 1, classes)
    return jnp.where(is_wrong, (labels + shift) % classes, labels).astype(labels.dtype)
