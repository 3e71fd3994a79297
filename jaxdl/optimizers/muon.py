"""Muon: the momentum of a matrix, made orthogonal; Adam for all that is no hidden matrix."""

import math
from typing import Any, Literal, NamedTuple

import jax
import optax
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxdl.checks import (
    require_at_least,
    require_choice,
    require_decay,
    require_non_negative,
)
from jaxdl.factories import factory
from jaxdl.optimizers.adam import scale_by_adam
from jaxdl.optimizers.by_layer import part_of, put_part
from jaxdl.optimizers.hidden_matrices import check_patterns, input_axes, sides
from jaxdl.optimizers.learning_rate import LearningRate, require_rate, scale_by_learning_rate
from jaxdl.optimizers.moments import require_moments, zeros
from jaxdl.optimizers.newton_schulz import QUINTIC, orthogonalized
from jaxdl.optimizers.precision import in_wide_type
from jaxdl.optimizers.weight_decay import decayed_weights, is_kernel

Scaling = Literal["spectral", "rms"]
SCALINGS = ("spectral", "rms")

RMS_OF_ADAM = 0.2
"""The root mean square of an Adam update, as Liu et al. (2025, section 2.2) found it."""


class MuonState(NamedTuple):
    """The two parts of the parameters: the state of the matrices, and that of the rest."""

    matrices: Any
    rest: Any


@factory
def muon(
    learning_rate: LearningRate,
    *,
    momentum: Any = 0.95,
    nesterov: bool = True,
    coefficients: Any = QUINTIC,
    iterations: Any = 5,
    epsilon: Any = 1e-7,
    scaling: Scaling = "spectral",
    matrices: Any = None,
    adam_rate: LearningRate | None = None,
    beta1: Any = 0.9,
    beta2: Any = 0.999,
    adam_epsilon: Any = 1e-8,
    weight_decay: Any = 0.0,
    mask: Any = is_kernel,
    moment_dtype: DTypeLike | None = None,
) -> optax.GradientTransformation:
    r"""Momentum, orthogonalised by Newton and Schulz: each direction of a matrix moves alike.

    For a matrix W of m inputs and n outputs, with B_0 = 0,

    $$B_t = \mu B_{t-1} + (1-\mu) G_t, \qquad \tilde B_t = \mu B_t + (1-\mu) G_t, \qquad
      X_0 = \frac{\tilde B_t}{\max(\lVert\tilde B_t\rVert_F, \epsilon)}$$
    $$X_{k+1} = aX_k + bA_kX_k + cA_k^2X_k,\quad A_k = X_kX_k^\top, \qquad
      W_{t+1} = W_t - \eta\,(s X_5 + \lambda W_t), \quad s = \sqrt{\max(1, n/m)}$$

    The singular vectors of X_5 are those of the momentum. With these coefficients five iterations
    bring a singular value between 0.01 and 1 of the norm into [0.68, 1.14]; they do not converge to
    1. All is computed in float32 at least, with JAX's default precision of products. The momentum
    has no bias correction, because X_0 does not see its scale.

    Which parameters are matrices: by default those of two axes, but embeddings and heads (a name
    with "embed" in it; layers "tok", "token", "tokens", "wte", "wpe", "pos", "head" and "lm_head")
    and what is named "bias" or "scale". In Flax's attention the kernels of `query`, `key` and
    `value` are matrices of (inputs, heads d), that of `out` one of (heads d, outputs). Look at the
    choice with `hidden_matrices(params)`. The last layer of an `MLP` is a head too, and has no name
    of its own: leave it out with `matrices={"dense_2": None}`, as tables and heads of other names.
    A leaf named "weight" has its outputs first, as in Equinox and PyTorch, all others their inputs.
    The rest takes Adam's step, with epsilon outside the root, and the same decay; so do other
    kernels of three axes and more.

    PyTorch: `weight_decay=0.1, mask=None`, for matrices of (n, m) with the name "weight". PyTorch
    rounds the iteration to bfloat16 and knows no other parameters; optax corrects the two terms of
    the look-ahead by different powers of mu.

    Arguments:
        learning_rate: eta, a `LearningRate`.
        momentum: mu, in [0, 1).
        nesterov: whether the gradient is looked ahead once more; else the matrix is B_t itself.
        coefficients: a, b, c.
        iterations: of Newton and Schulz, at least 1.
        epsilon: the least norm by which is divided, 0 or more.
        scaling: s. "spectral" is as above: eta bounds the change of the root mean square of the
            outputs; about 0.02. With "rms" s is 0.2 sqrt(max(m, n)): the update's root mean square
            is Adam's, so that one rate suits both.
        matrices: a mapping from patterns, as in `by_layer`, to the number of leading axes that are
            inputs; negative, of the last axes that are; None leaves a parameter to Adam. Kernels of
            convolutions take part where it says so, as matrices of (height width in, out):
            {"conv_*": 3}. The first pattern that fits counts; what fits none is as by default.
        adam_rate: the rate of the rest; None for `learning_rate`. With one of its own,
            `current_learning_rate` takes a part of the state: `opt_state[-1].matrices`.
        beta1, beta2, adam_epsilon: of Adam's step.
        weight_decay: lambda, 0 or more.
        mask: which parameters decay, see `l2`.
        moment_dtype: as in `adam`.

    Raises:
        TypeError: `matrices` is no such mapping.
        ValueError: a bad number; at init, a pattern that fits no parameter, too few axes for the
            number of its pattern, or a complex matrix; at an update with decay, no parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = muon(1.0)
        >>> params = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}
        >>> gradients = {"kernel": jnp.diag(jnp.array([5.0, 0.5])), "bias": jnp.array([5.0, 0.5])}
        >>> updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        >>> [round(each.item(), 1) for each in jnp.diag(updates["kernel"])]
        [-0.7, -0.7]
        >>> updates["bias"].round(3).tolist()
        [-1.0, -1.0]

    Source: Jordan et al. (2024), "Muon: an optimizer for hidden layers in neural networks"; Liu et
    al. (2025), "Muon is scalable for LLM training", equation 4, for "rms".
    """
    require_decay("momentum", momentum)
    require_moments(beta1, beta2, adam_epsilon)
    require_non_negative("epsilon", epsilon)
    require_at_least(1, iterations=iterations)
    require_choice("scaling", scaling, SCALINGS)
    _check_coefficients(coefficients)
    check_patterns(matrices)
    for rate in (learning_rate, adam_rate):
        require_rate(0.0 if rate is None else rate)
    settings: Any = {
        "momentum": momentum, "nesterov": nesterov, "coefficients": coefficients,
        "iterations": iterations, "epsilon": epsilon, "scaling": scaling,
    }  # fmt: skip
    adam = scale_by_adam(beta1=beta1, beta2=beta2, epsilon=adam_epsilon, epsilon_position="outside")
    decay = decayed_weights(weight_decay, mask)

    def rule_of(tree: Any) -> Any:
        axes = input_axes(matrices or {}, tree)
        direction = scale_by_muon(tuple(each for each in axes if each is not None), **settings)
        owners = [int(each is None) for each in axes]
        rate = scale_by_learning_rate(learning_rate)
        if adam_rate is not None:
            rate = _in_two_parts(rate, scale_by_learning_rate(adam_rate), owners)
        rule = optax.chain(_in_two_parts(direction, adam, owners), *decay, rate)
        return in_wide_type(rule, moment_dtype)

    def init_fn(params: Any) -> Any:
        return rule_of(params).init(params)

    def update_fn(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if decay and params is None:
            raise ValueError(
                "muon with weight decay needs the parameters: update(grads, state, params)"
            )
        moved: tuple[Any, Any] = rule_of(updates).update(updates, state, params)
        return moved

    return optax.GradientTransformation(init_fn, update_fn)


def scale_by_muon(
    axes: tuple[int, ...],
    *,
    momentum: Any,
    nesterov: bool,
    coefficients: Any,
    iterations: int,
    epsilon: Any,
    scaling: Scaling,
) -> optax.GradientTransformation:
    """Muon's direction, s X: see `jaxdl.optimizers.muon`. The state is the momentum.

    Arguments:
        axes: of each leaf, which must be a matrix, as `matrices` has them.
    """

    def update_fn(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params

        def towards(old: Any, new: Any) -> Any:
            return jax.tree.map(lambda b, g: momentum * b + (1 - momentum) * g, old, new)

        state = towards(state, updates)
        ahead = towards(state, updates) if nesterov else state
        leaves = jax.tree.leaves(ahead)
        structure: Any = jax.tree.structure(ahead)

        def direction(leaf: Array, inputs: int) -> Array:
            fan_in, fan_out = sides(leaf.shape, inputs)
            matrix = leaf.reshape(math.prod(leaf.shape[:inputs]), -1)
            wide, long = max(1, fan_out / fan_in), max(fan_in, fan_out)
            scale = math.sqrt(wide) if scaling == "spectral" else RMS_OF_ADAM * math.sqrt(long)
            x = orthogonalized(matrix, coefficients, iterations, epsilon)
            return (scale * x).reshape(leaf.shape).astype(leaf.dtype)

        return structure.unflatten(map(direction, leaves, axes)), state

    return optax.GradientTransformation(zeros, update_fn)


def _check_coefficients(coefficients: Any) -> None:
    if not hasattr(coefficients, "__len__") or len(coefficients) != len(QUINTIC):
        raise ValueError(
            f"coefficients must be three numbers, a, b and c, got {coefficients!r}; leave them out "
            "for Jordan's"
        )


def _in_two_parts(
    matrices: optax.GradientTransformation, rest: optax.GradientTransformation, owners: list[int]
) -> optax.GradientTransformation:
    """One rule for the matrices, another for the rest, which keep to their own parts."""

    def init_fn(params: Any) -> MuonState:
        parts = [part_of(params, owners, index) for index in range(2)]
        return MuonState(matrices.init(parts[0]), rest.init(parts[1]))

    def update_fn(updates: Any, state: MuonState, params: Any = None) -> tuple[Any, MuonState]:
        states = []
        moved = updates
        for index, (rule, own) in enumerate(zip((matrices, rest), state, strict=True)):
            part = None if params is None else part_of(params, owners, index)
            new, after = rule.update(part_of(updates, owners, index), own, part)
            moved = put_part(new, moved, owners, index)
            states.append(after)
        return moved, MuonState(*states)

    return optax.GradientTransformation(init_fn, update_fn)
