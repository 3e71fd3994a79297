"""What a program does with each axis of its parameters."""

import jax
import jax.numpy as jnp
import pytest

from jaxdl.tracing.axis_uses import AxisUse, axis_uses

X = jnp.ones((5, 4))
UNCLEAR = {(None, None)}


def found(function, *parameters, inputs=X):
    """Of each parameter its uses, as (reads, feeds); (None, None) where one is not understood."""
    program = jax.make_jaxpr(function)(*parameters, inputs).jaxpr
    uses = axis_uses(program, range(len(parameters)))
    return [
        {
            ("".join(map(str, sorted(use.reads))), "".join(map(str, sorted(use.feeds))))
            if use.clear
            else (None, None)
            for use in uses[number]
        }
        for number in range(len(parameters))
    ]


def weight(*shape):
    return jnp.ones(shape)


def standardized(w, x):
    return x @ ((w - w.mean(0)) / jnp.sqrt(w.var(0) + 1e-5))


def by_heads(w, x):
    """A kernel (inputs, heads, width), as Flax computes it."""
    return (x @ w.reshape(4, -1)).reshape(5, 2, 3)


def after_heads(w, x):
    return x.reshape(5, 2, 2).reshape(5, -1) @ w.reshape(4, 3)


def scanned(w, x):
    return jax.lax.scan(lambda x, layer: (jnp.tanh(x @ layer), None), x, w)[0]


def repeated(w, x):
    return jax.lax.fori_loop(0, 3, lambda _, x: x @ w, x)


def chosen(w, x):
    return jax.lax.cond(x.sum() > 0, lambda: x @ w, lambda: x @ (2 * w))


def convolved(w, x):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x.reshape(1, 1, 5, 4), w, (1, 1), "SAME", dimension_numbers=numbers
    )


def mapped_over_examples(w, x):
    return jax.vmap(lambda row: w @ row)(x)


def each_head_its_own(w, x):
    return jnp.einsum("bhd,hde->bhe", x.reshape(5, 2, 2), w)


@pytest.mark.parametrize(
    ("function", "parameter", "expected"),
    [
        (lambda w, x: x @ w, weight(4, 3), ("0", "1")),
        (lambda w, x: x @ w.T, weight(3, 4), ("1", "0")),
        (mapped_over_examples, weight(3, 4), ("1", "0")),
        (jax.jit(lambda w, x: x @ w), weight(4, 3), ("0", "1")),
        (jax.checkpoint(lambda w, x: jnp.sin(x @ w)), weight(4, 3), ("0", "1")),
        (lambda w, x: x @ w.astype(jnp.float16).astype(jnp.float32), weight(4, 3), ("0", "1")),
        (standardized, weight(4, 3), ("0", "1")),
        (by_heads, weight(4, 2, 3), ("0", "12")),
        (after_heads, weight(2, 2, 3), ("01", "2")),
        (each_head_its_own, weight(2, 2, 3), ("1", "02")),
        (scanned, weight(3, 4, 4), ("1", "2")),
        (repeated, weight(4, 4), ("0", "1")),
        (chosen, weight(4, 3), ("0", "1")),
        (convolved, weight(1, 3, 4, 2), ("012", "3")),
        (lambda b, x: x + b, weight(4), ("", "0")),
        (lambda b, x: x * b[None], weight(4), ("", "0")),
        (lambda b, x: x + b.reshape(1, 4), weight(4), ("", "0")),
        (lambda b, x: x.reshape(5, 2, 2) + b, weight(2, 2), ("", "01")),
        (lambda t, x: t[x.astype(int)[:, 0]], weight(7, 3), ("", "1")),
        (lambda t, x: jnp.take(t, x.astype(int)[:, 0], axis=0), weight(7, 3), ("", "1")),
        (lambda t, x: x + t[:5], weight(9, 4), ("", "01")),
        (lambda t, x: jax.nn.one_hot(x.astype(int)[:, 0], 7) @ t, weight(7, 3), ("0", "1")),
        (lambda t, x: jnp.concatenate([t, x]), weight(1, 4), ("", "01")),
        (lambda s, x: x * jax.nn.softplus(s), weight(), ("", "")),
        (lambda w, x: w, weight(3), ("", "0")),
    ],
)  # fmt: skip
def test_the_axes_of_a_parameter(function, parameter, expected):
    assert found(function, parameter) == [{expected}]


def test_a_shared_table_has_two_uses_and_what_is_not_used_has_none():
    def tied(table, other, x):
        return table[x.astype(int)[:, 0]] @ table.T

    assert found(tied, weight(7, 3), weight(2)) == [{("", "1"), ("1", "0")}, set()]


def test_what_is_not_understood_is_said():
    assert found(lambda a, b, x: x @ (a @ b), weight(4, 2), weight(2, 3)) == [UNCLEAR, UNCLEAR]
    assert found(lambda a, x: jnp.linalg.solve(a, x.T), weight(4, 4)) == [UNCLEAR]
    assert AxisUse(clear=False) != AxisUse()


def test_a_hidden_program_is_followed_with_its_own_derivative():
    @jax.custom_vjp
    def product(w, x):
        return x @ w

    product.defvjp(lambda w, x: (x @ w, (w, x)), lambda kept, g: (kept[1].T @ g, g @ kept[0].T))
    assert found(product, weight(4, 3)) == [{("0", "1")}]
