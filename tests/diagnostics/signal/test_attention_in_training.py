"""Attention along a run: whose it may be, and what advice says of logits that grew."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from foreign import everyone

from jaxdl import data, losses, models, optimizers, training
from jaxdl.diagnostics import Attention, advise, attention, propagation
from jaxdl.diagnostics.signal.attention_advice import LARGE_LOGIT

WIDTH, LENGTH = 8, 6
X = jax.random.normal(jax.random.key(0), (4, LENGTH, WIDTH))


def by_hand(params, x):
    """A plain function: one head, no module."""
    logits = (x @ params["query"]) @ (x @ params["key"]).swapaxes(-1, -2) / WIDTH**0.5
    return jax.nn.softmax(logits) @ (x @ params["value"])


PARAMS = {
    name: jax.random.normal(jax.random.key(number), (WIDTH, WIDTH)) / WIDTH**0.5
    for number, name in enumerate(("query", "key", "value"))
}


def test_of_a_plain_function():
    found = attention(by_hand, PARAMS, {"inputs": X})
    x, query, key = (np.asarray(each, np.float64) for each in (X, PARAMS["query"], PARAMS["key"]))
    logits = (x @ query) @ (x @ key).swapaxes(-1, -2) / WIDTH**0.5
    np.testing.assert_allclose(found.largest_logit, [np.abs(logits).max()], rtol=1e-5)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    entropy = -(weights * np.log(weights)).sum(-1)
    np.testing.assert_allclose(found.least_entropy, [entropy.min()], rtol=1e-4)
    np.testing.assert_allclose(
        found.normalized_entropy, [entropy.mean() / np.log(LENGTH)], rtol=1e-5
    )
    assert found.keys == (LENGTH,)


class Normed(nn.Module):
    """With a batch norm and a dropout before the attention."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.MultiHeadDotProductAttention(2, name="attend")(x)


def test_with_batch_norm_and_dropout_train_decides():
    model, batch = Normed(), {"inputs": 3 + X}
    variables = model.init(jax.random.key(1), X, train=False)
    one, other = (
        attention(model, variables, batch, key=jax.random.key(seed)).largest_logit
        for seed in (0, 1)
    )
    assert one != other
    with pytest.raises(ValueError, match="needs a key"):
        attention(model, variables, batch)
    # The running statistics are still those of the start, so inputs of mean 3 stay as they are.
    asleep = attention(model, variables, batch, train=False)
    raw = attention(
        nn.MultiHeadDotProductAttention(2), {"params": variables["params"]["attend"]}, batch,
        train=False,
    )  # fmt: skip
    np.testing.assert_allclose(asleep.largest_logit, raw.largest_logit, rtol=1e-4)


def test_it_may_be_jitted_and_mapped_over_variables():
    model = models.Transformer(5, features=8, layers=2, heads=2, length=LENGTH)
    tokens = jax.random.randint(jax.random.key(0), (3, LENGTH), 0, 5)
    batch = {"inputs": tokens}
    each = [model.init(jax.random.key(seed), tokens, train=False) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    mapped = jax.jit(jax.vmap(lambda variables: attention(model, variables, batch)))(stacked)
    assert isinstance(mapped, Attention)
    assert mapped.largest_logit.shape == (3, 2)
    for number, variables in enumerate(each):
        alone = attention(model, variables, batch)
        np.testing.assert_allclose(mapped.entropy[number], alone.entropy, rtol=1e-5)
    assert "mean of 3 runs" in repr(mapped)
    assert len(mapped.table().rows) == 2
    largest, shares = mapped.plot().axes
    assert [len(axes.lines) for axes in (largest, shares)] == [3 + 1, 2 * (3 + 1)]
    np.testing.assert_allclose(largest.lines[-1].get_ydata(), mapped.largest_logit.mean(0), 1e-6)
    assert "mean of 3 runs" in shares.get_legend().texts[-1].get_text()
    assert "block_1/attention/weights" in alone._repr_html_()
    assert len(alone.plot().axes) == 2


@pytest.mark.parametrize("name", ["encoder and decoder", "decoder in bfloat16", "vit"])
def test_of_foreign_models_it_is_what_propagation_says(name):
    foreign, measured = everyone.MODELS[name], everyone.measured(name)
    found = attention(
        foreign.task, everyone.variables_of(name), foreign.batch, train=foreign.train,
        key=everyone.KEY,
    )  # fmt: skip
    rows = [row for row, kind in enumerate(measured.kinds) if kind == "attention"]
    assert found.names == tuple(measured.names[row] for row in rows)
    assert len(rows) > 1
    # Half precision: what one program fuses, another rounds.
    tolerance = 2e-2 if "bfloat16" in name else 1e-5
    for field in ("largest_logit", "entropy", "normalized_entropy"):
        ours = getattr(measured, field)[np.array(rows)]
        np.testing.assert_allclose(getattr(found, field), ours, tolerance)


class OfEquinox(eqx.Module):
    attend: eqx.nn.MultiheadAttention

    def __call__(self, x):
        return self.attend(x, x, x)


def test_of_equinox():
    model = OfEquinox(eqx.nn.MultiheadAttention(2, WIDTH, key=jax.random.key(1)))
    assert attention(model, None, {"inputs": X}).names == ("attend/weights",)


def test_a_batch_without_inputs_is_refused():
    with pytest.raises(ValueError, match="must have the key 'inputs'"):
        attention(by_hand, PARAMS, {"targets": X})
    with pytest.raises(ValueError, match=r"at least one example, got inputs of shape \(0, 6, 8\)"):
        attention(by_hand, PARAMS, {"inputs": X[:0]})


# Advice


def trained(rate, norm=None):
    """A measurement at the start, and one after 40 steps of Adam at this rate."""
    made = data.brackets(jax.random.key(0), kinds=2, length=12, examples=256, test_examples=32)
    model = models.Transformer(
        4, features=16, layers=1, heads=2, outputs=3, length=12, normalize_qk=norm
    )
    task = training.Task(model, losses.cross_entropy)
    run = training.make_run(task, optimizers.adam(rate), batch_size=32)
    start = run.init(jax.random.key(1), made.train)
    end, _ = run(jax.random.key(1), {"train": made.train},
                 training.orders(jax.random.key(1), 5, 256))  # fmt: skip
    probe = {"inputs": made.test.inputs, "targets": made.test.targets}
    return tuple(propagation(task, state.variables, probe) for state in (start, end))


def test_a_rate_that_is_too_large_makes_logits_grow():
    before, after = trained(0.3)
    assert advise(before) == ()
    found = {each.problem: each for each in advise(after, before=before)}
    advice = found["growing logits"]
    row = after.names.index(advice.row)
    assert advice.row == "block_0/attention/weights"
    assert after.largest_logit[row] > LARGE_LOGIT
    assert advice.measured == pytest.approx(
        float(after.largest_logit[row] / before.largest_logit[row]), rel=1e-6
    )
    for words in ("normalise queries and keys", "lower the learning rate", "warm it up"):
        assert words in advice.sentence
    # Without the earlier measurement nothing is said to have grown.
    assert "growing logits" not in {each.problem for each in advise(after)}


@pytest.mark.parametrize(("rate", "norm"), [(0.01, None), (0.01, nn.RMSNorm)])
def test_a_usual_rate_and_normalised_keys_are_healthy(rate, norm):
    before, after = trained(rate, norm)
    problems = {each.problem for each in advise(after, before=before)}
    assert not problems & {"growing logits", "one-hot attention"}


def edited(measured, row, **values):
    """The measurement with other numbers in a row."""
    arrays = {}
    for name, value in values.items():
        arrays[name] = np.array(getattr(measured, name))
        arrays[name][row] = value
    return measured.replace(**arrays)


@pytest.fixture(scope="module")
def healthy():
    return everyone.measured("encoder and decoder")


ROW = "encoder_attention/weights"


def test_growth_needs_size_factor_and_lost_spread(healthy):
    row = healthy.names.index(ROW)
    base = {"largest_logit": 1e3, "normalized_entropy": 0.1}
    assert [each.row for each in advise(edited(healthy, row, **base), before=healthy)] == [ROW]
    harmless = (
        {"largest_logit": 80.0},  # below float32's exponentials
        {"normalized_entropy": healthy.normalized_entropy[row]},  # a shift that all logits share
    )
    for change in harmless:
        assert advise(edited(healthy, row, **base | change), before=healthy) == ()
    large = edited(healthy, row, largest_logit=200.0)
    assert advise(edited(healthy, row, **base), before=large) == ()  # a factor of 5


def test_one_key_in_training_is_told_from_one_key_at_the_start(healthy):
    row = healthy.names.index(ROW)
    sick = edited(healthy, row, on_one_key=0.97, largest_logit=50.0)
    (at_start,) = advise(sick)
    (in_training,) = advise(sick, before=healthy)
    assert at_start.problem == in_training.problem == "one-hot attention"
    assert "start their kernels smaller" in at_start.sentence
    assert "lower the learning rate" in in_training.sentence
    assert "0% before" in in_training.sentence
    # It was so before: the start is to blame. If the logits go on growing, training is.
    assert advise(sick, before=sick)[0].sentence == at_start.sentence
    sicker = edited(sick, row, largest_logit=5e3)
    (more,) = (each for each in advise(sicker, before=sick) if each.problem == "one-hot attention")
    assert "lower the learning rate" in more.sentence


def test_with_norms_on_queries_and_keys_the_remedy_is_another():
    before, _ = trained(0.01, nn.RMSNorm)
    row = before.kinds.index("attention")
    sick = edited(before, row, on_one_key=0.97, largest_logit=500.0, normalized_entropy=0.01)
    (advice,) = [each for each in advise(sick) if each.problem == "one-hot attention"]
    assert "start the scales of its norms" in advice.sentence
    found = {each.problem: each.sentence for each in advise(sick, before=before)}
    assert "the scales of its norms of queries and keys grew" in found["growing logits"]
    assert "normalise queries and keys" not in found["growing logits"]


def test_another_models_measurement_before_is_refused(healthy):
    with pytest.raises(ValueError, match="before must have the rows of the measurement"):
        advise(healthy, before=everyone.measured("vit"))
    several = jax.tree.map(lambda leaf: np.stack([leaf] * 2), healthy)
    with pytest.raises(ValueError, match="one run's concrete numbers"):
        advise(healthy, before=several)


def test_what_is_no_measurement_is_refused(healthy):
    with pytest.raises(TypeError, match=r"before must be what .* measured, got int; pass"):
        advise(healthy, before=3)
    with pytest.raises(TypeError, match=r"measured must be what .* measured, got dict; pass"):
        advise({})
