"""The multilayer perceptron."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
from jaxtyping import Array, Float


class MLP(nn.Module):
    r"""Dense layers with an activation between them; the last layer is linear.

    $$h_l = \phi(W_l^\top h_{l-1} + b_l), \qquad y = W_L^\top h_{L-1} + b_L$$

    Inputs of any shape (batch, ...) are flattened. Dropout follows each activation. A bias that a
    norm standing directly behind it would remove is left out.

    Attributes:
        features: the width of every layer, the last being the outputs.
        activation: elementwise function, or a factory's product such as `PReLU()`.
        norm: a factory of norm modules, e.g. `functools.partial(BatchNorm, momentum=0.99)`.
        norm_position: where the norm stands, "before" or "after" the activation.
        dropout_rate: the share of hidden units set to zero in training, in [0, 1).
        kernel_init: initializer of every kernel, of shape (fan_in, fan_out).
        bias_init: initializer of every bias, given its layer's fan_in: `bias_init(fan_in)` when
            it is a factory such as `torch_bias`, else an initializer of shape (fan_out,).
    """
