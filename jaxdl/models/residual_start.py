"""How residual branches start: smaller, or at zero, so that a deep network starts as a shallow one.

One argument, `residual_start`, means the same in every model with branches F beside shortcuts:

| start | the sum | at the start |
| --- | --- | --- |
| None | x + F(x) | |
| "scaled" | x + F(x) | the last kernel of each branch is divided by sqrt(L) |
| "zero_scale" | x + N(F(x)) | the scale of N, the norm that ends the branch, is 0 |
| "skip_init" | x + a F(x) | a, a number for each branch that is learned, is 0 |
| "fixup" | x + a F(x) | a is 1, the last layer of each branch and the last of all are 0 |

L is the number of branches. Under Fixup the other kernels of a branch, which has m layers in line,
are multiplied by L^(-1 / (2 m - 2)), and there are no norms.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from jaxdl.checks import require_choice
from jaxdl.initializers import Initializer, ones, zeros

STARTS = ("scaled", "zero_scale", "skip_init", "fixup")
"""What `residual_start` may be, besides None."""


def check_residual_start(owner: str, start: Any, norm: Any, *, norm_ends_branch: bool) -> None:
    """Refuse a start that the network's norms undo or forbid.

    Arguments:
        owner: the model, as an error names it.
        start: its `residual_start`.
        norm: its factory of norms, or None.
        norm_ends_branch: whether a norm, if there is one, is the last part of each branch.

    Raises:
        ValueError: an unknown word; "zero_scale" without a norm that ends the branches; "scaled"
            with one; "fixup" with norms.

    Example:
        >>> check_residual_start("ResNet", "zero_scale", nn.LayerNorm, norm_ends_branch=True)
        >>> check_residual_start("ResNet", "fixup", nn.LayerNorm, norm_ends_branch=True)
        Traceback (most recent call last):
        ValueError: ResNet residual_start='fixup' must have no norms, which it replaces, got ...
    """
    if start is None:
        return
    require_choice(f"{owner} residual_start", start, STARTS)
    ends = norm is not None and norm_ends_branch
    if start == "zero_scale" and not ends:
        where = "norm=None" if norm is None else "norms elsewhere"
        raise ValueError(
            f"{owner} residual_start='zero_scale' must have a norm at the end of each branch, "
            f"whose scale it is, got {where}; pass {_norm_at_the_end(owner)}, or "
            "residual_start='skip_init', which needs no norm"
        )
    if start == "scaled" and ends:
        raise ValueError(
            f"{owner} residual_start='scaled' must have no norm at the end of each branch, which "
            "would undo it, got one; pass residual_start='zero_scale' or 'skip_init', or other "
            "norms"
        )
    if start == "fixup" and norm is not None:
        raise ValueError(
            f"{owner} residual_start='fixup' must have no norms, which it replaces, got {norm!r}; "
            "pass norm=None, or residual_start='skip_init', which allows norms"
        )


def _norm_at_the_end(owner: str) -> str:
    return "a norm" if owner == "ResNet" else "a norm and norm_position='inside'"


def inner_init(start: Any, init: Initializer, branches: int, in_line: int = 2) -> Initializer:
    """Initializer of a branch's kernels but for the last: times L^(-1 / (2 m - 2)) under Fixup.

    Arguments:
        start: the model's `residual_start`.
        init: its own initializer.
        branches: L, the residual branches of the whole network.
        in_line: m, the layers that a branch's signal crosses.

    Example:
        >>> import jax
        >>> float(inner_init("fixup", ones(), branches=16)(jax.random.key(0), (1,))[0])
        0.25
    """
    if start != "fixup":
        return init
    return functools.partial(_multiplied, init, branches ** (-1 / (2 * in_line - 2)))


def last_init(start: Any, init: Initializer, branches: int) -> Initializer:
    """Initializer of the last kernel of a branch: zero under Fixup, or divided by sqrt(L)."""
    if start == "scaled":
        return functools.partial(_multiplied, init, 1 / math.sqrt(branches))
    return zeros() if start == "fixup" else init


def zero_under_fixup(start: Any, init: Any) -> Any:
    """Zeros under Fixup, for the outputs' kernel and biases that would move a branch; or `init`."""
    return zeros() if start == "fixup" else init


def zero_scaled(norm: Any, name: str) -> Any:
    """A norm of this name, whose scale starts at 0; call it inside a compact method.

    Raises:
        ValueError: the factory makes norms without a scale, or takes no `scale_init`.
    """
    try:
        made = norm(name=name, scale_init=zeros())
    except TypeError as error:
        raise ValueError(
            "residual_start='zero_scale' must have norms that take scale_init, got "
            f"{norm!r}; pass e.g. jaxdl.layers.BatchNorm, or residual_start='skip_init'"
        ) from error
    if not getattr(made, "use_scale", True):
        raise ValueError(
            "residual_start='zero_scale' must have norms with a scale, got use_scale=False; pass "
            "use_scale=True, or residual_start='skip_init'"
        )
    return made


def scale_branch(module: nn.Module, start: Any, branch: Array, name: str = "branch_scale") -> Array:
    """The branch times its number `name`, if it has one; call it inside a compact method."""
    if start not in ("skip_init", "fixup"):
        return branch
    init = zeros() if start == "skip_init" else ones()
    return branch * jnp.asarray(module.param(name, init, ())).astype(branch.dtype)


def shift(module: nn.Module, start: Any, x: Array, name: str) -> Array:
    """x plus Fixup's number `name`, which starts at 0; call it inside a compact method."""
    if start != "fixup":
        return x
    return x + jnp.asarray(module.param(name, zeros(), ())).astype(x.dtype)


def _multiplied(
    init: Initializer, factor: float, key: Any, shape: Any, dtype: Any = jnp.float32
) -> Array:
    return init(key, shape, dtype) * factor
