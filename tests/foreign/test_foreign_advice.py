"""Advice: published starts are healthy, and a disease planted in one is found in its place."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from foreign.everyone import MODELS, measure, measured, variables_of
from foreign.zoo import normal

from jaxdl import losses
from jaxdl.diagnostics import Propagation, advise, propagation


@pytest.mark.parametrize("name", MODELS)
def test_a_published_start_is_healthy_and_advice_says_so(name):
    found = advise(measured(name))
    assert found == ()
    assert (
        str(found) == repr(found) == f"healthy: nothing found in {len(measured(name).names)} rows"
    )


def planted(name: str, path: str, edit) -> Propagation:
    """The model with one of its parameters edited."""
    variables = nn.meta.unbox(variables_of(name))
    params = dict(flatten_dict(variables["params"], sep="/"))
    params[path] = edit(params[path])
    boxed = nn.meta.replace_boxed(variables_of(name)["params"], unflatten_dict(params, sep="/"))
    return measure(name, {**variables, "params": boxed})


def times(factor: float):
    return lambda leaf: factor * leaf


def below(leaf):
    return leaf - 1e3


HE = "he_normal for ReLU"
LINEAR = "lecun_normal or glorot_uniform where no ReLU follows"

# name, parameter, edit, problem, row, words in the sentence
DISEASES = [
    ("vit", "blocks/up/kernel", lambda k: k.at[1, 0, 0].set(jnp.inf),
     "not finite", "blocks[1]/up", "its weights are, too"),
    ("unet", "conv_out/bias", lambda b: b.at[0].set(jnp.nan),
     "not finite", "conv_out", "33.3% of the activations"),
    ("encoder and decoder", "decoder_feed/wi/bias", below,
     "cut off", "decoder_feed/wi", "every unit of decoder_feed/wi/activation is dead"),
    ("resnet", "stage_0/conv_proj/kernel", times(0.0),
     "cut off", "stage_1/BatchNorm_2", "stage_0/conv_proj and"),
    ("experts", "router/kernel", times(1e5),
     "cut off", "router", "a flat function there"),
    ("lists", "layers_1/kernel", times(1e-5),
     "vanishing signal", "layers_1", HE),
    ("siamese", "encoder/code/kernel", times(1e-5),
     "vanishing signal", "encoder/code", LINEAR),
    ("decoder under jit", "blocks_1/out/kernel", times(1e5),
     "exploding signal", "blocks_1/out", LINEAR),
    ("decoder under jit", "blocks_0/qkv/kernel", times(1e5),
     "exploding signal", "blocks_0/qkv", LINEAR),
    ("encoder and decoder", "encoder_feed/wo/kernel", times(1e5),
     "exploding signal", "encoder_feed/wo", LINEAR),
    ("lstm", "embed/embedding", times(1e5),
     "exploding signal", "embed", "a standard deviation of 0.02 to 1"),
    ("gru", "cell/hn/kernel", times(1e5),
     "exploding signal", "cell/hn", "orthogonal for a recurrence"),
    ("dit", "patches/kernel", times(1e5),
     "exploding signal", "patches", "standardise the inputs"),
    ("unet", "time/dense_1/kernel", times(1e5),
     "exploding signal", "time/dense_1", HE),
    ("lists", "layers_1/kernel", times(1e-5),
     "vanishing gradient", "layers_1", "in place of a function that flattens"),
    ("mixer", "head/kernel", times(1e-5),
     "vanishing gradient", "head", LINEAR),
    ("decoder under jit", "blocks_1/out/kernel", times(1e5),
     "vanishing gradient", "norm", "its inputs are large"),
    ("mixer", "head/kernel", times(1e5),
     "exploding gradient", "head", LINEAR),
    ("mode is a field", "norm_1/bias", lambda b: b.at[::2].add(-1e3),
     "dead units", "norm_1/activation", "use leaky_relu"),
    ("vit", "blocks/attention/value/kernel", lambda k: k.at[1, :, 0].set(0.0),
     "dead units", "blocks[1]/attention/value", "look for zeros in its weights"),
    ("actor and critic", "torso_1/kernel", times(100.0),
     "saturated", "torso_1/activation", "scale the kernel before it down"),
    ("mixer", "head/kernel", times(1e5),
     "small update", "head", "start from smaller weights"),
    ("lstm", "embed/embedding", times(1e-5),
     "large update", "embed", "start from larger weights"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "path", "edit", "problem", "row", "words"),
    DISEASES,
    ids=[f"{each[3]} in {each[0]} at {each[4]}" for each in DISEASES],
)
def test_a_planted_disease_is_found_in_its_place(name, path, edit, problem, row, words):
    found = {each.problem: each for each in advise(planted(name, path, edit))}
    assert problem in found
    # A module that is called again has a row for each call.
    assert found[problem].row.split(":")[0] == row
    assert words in found[problem].sentence
    if words == LINEAR:
        assert "he_normal" not in found[problem].sentence


@pytest.mark.parametrize(("rate", "problem"), [(1e-6, "small update"), (1e3, "large update")])
def test_a_rate_that_is_wrong_everywhere_is_the_rate(rate, problem):
    healthy = measured("keywords")
    (advice,) = advise(healthy.replace(update_ratio=rate * np.asarray(healthy.update_ratio)))
    assert advice.problem == problem
    assert "multiply the learning rate" in advice.sentence


def test_a_loss_that_reads_nothing_is_told_from_an_output_that_it_leaves_out():
    healthy = measured("actor and critic")
    rows = healthy.names.index("logits"), healthy.names.index("value")
    assert [healthy.gradient_zero_fraction[row] for row in rows] == [1, 0]
    # No gradient comes from anywhere.
    nothing = healthy.replace(gradient_zero_fraction=np.ones(len(healthy.names)))
    (advice,) = advise(nothing)
    assert (advice.problem, advice.row) == ("cut off", "value")
    assert "the loss does not depend on it" in advice.sentence


def test_findings_print_a_sentence_a_line():
    found = advise(planted("mixer", "head/kernel", times(1e5)))
    assert len(found) > 1
    assert str(found).splitlines() == [each.sentence for each in found]
    assert [each.problem for each in found[:1]] == [found[0].problem]


class DropsBranches(nn.Module):
    """Stochastic depth: a branch is left out of a sum for half of the examples."""

    @nn.compact
    def __call__(self, x):
        y = nn.Dense(8, name="branch")(x)
        x = x + y * jax.random.bernoulli(self.make_rng("dropout"), 0.5, (len(x), 1))
        return nn.Dense(1, name="head")(x)


def test_a_branch_that_is_dropped_at_random_does_not_saturate():
    x = normal(8, 8)
    variables = jax.jit(DropsBranches().init)(jax.random.key(0), x)
    found = propagation(
        DropsBranches(), variables, {"inputs": x, "targets": x[:, :1]},
        loss=losses.mean_squared_error, key=jax.random.key(1),
    )  # fmt: skip
    assert found.saturated_fraction[found.names.index("branch/activation")] == 0


class TwoCalls(nn.Module):
    """A head of zeros, called on a map that no loss reads, and on its mean."""

    @nn.compact
    def __call__(self, x):
        x = nn.gelu(nn.Dense(16, name="stem")(x))
        x = x + nn.Dense(16, name="body")(nn.LayerNorm(name="norm")(x))
        head = nn.Dense(5, name="head", kernel_init=nn.initializers.zeros)
        return head(x.mean(1)), {"map": head(x)}


def test_outputs_that_no_loss_reads_are_no_part_of_the_signal():
    x = normal(8, 4, 8)
    variables = jax.jit(TwoCalls().init)(jax.random.key(0), x)
    found = propagation(
        TwoCalls(), variables, {"inputs": x, "targets": jnp.arange(8) % 5},
        loss=lambda outputs, targets: losses.cross_entropy(outputs[0], targets),
    )  # fmt: skip
    assert not advise(found)
