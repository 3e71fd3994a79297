"""Which keys an attention sees: masks of every size, shifts, and logits that are not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import losses
from jaxdl.diagnostics import advise, attention, propagation
from jaxdl.diagnostics.signal.attending import attended

QUERIES = 6
CAUSAL = np.tril(np.ones((QUERIES, QUERIES), bool))
LOGITS = 8 * np.asarray(jax.random.normal(jax.random.key(0), (3, QUERIES, QUERIES)))
NAMES = ("largest_logit", "entropy", "on_one_key", "least_entropy", "normalized_entropy")


def by_formula(logits, seen):
    """The measures in float64, of the queries that see a key."""
    logits = np.asarray(logits, np.float64)
    seen = np.broadcast_to(seen, logits.shape)
    entropies, normalized, ones = [], [], []
    for query, sees in zip(logits.reshape(-1, QUERIES), seen.reshape(-1, QUERIES), strict=True):
        if not sees.any():
            continue
        weights = np.exp(query[sees] - query[sees].max())
        weights /= weights.sum()
        entropies.append(-(weights * np.log(np.where(weights > 0, weights, 1))).sum())
        if sees.sum() > 1:
            normalized.append(entropies[-1] / np.log(sees.sum()))
            ones.append((weights.max() >= 0.99, entropies[-1]))
    return (
        np.abs(logits[seen]).max(), np.mean(entropies), np.mean([one for one, _ in ones]),
        min(entropy for _, entropy in ones), np.mean(normalized),
    )  # fmt: skip


def measured(logits):
    logits = jnp.asarray(logits)
    return attended(jax.nn.softmax(logits), logits, logits.ndim - 1)


def assert_measures(found, expected):
    for name, got, value in zip(NAMES, found, expected, strict=True):
        np.testing.assert_allclose(got, value, 2e-5, 1e-6, err_msg=name)


def replaced(logits, mask, value, dtype):
    return jnp.where(mask, jnp.asarray(logits, dtype), jnp.asarray(value, dtype))


@pytest.mark.parametrize(
    ("mask", "dtype"),
    [
        (-1e3, "float32"), (-1e4, "float32"), (-1e9, "float32"), (-np.inf, "float32"),
        (float(jnp.finfo("float32").min), "float32"), (-1e4, "float16"),
        (float(jnp.finfo("float16").min), "float16"), (-1e4, "bfloat16"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_added", [False, True], ids=["replaced", "added"])
def test_a_mask_of_any_size_hides_its_keys(mask, dtype, is_added):
    values = jnp.asarray(LOGITS, dtype)
    if is_added:
        logits = values + jnp.where(CAUSAL, 0, mask).astype(dtype)
    else:
        logits = replaced(values, CAUSAL, mask, dtype)
    # In half precision too a softmax is usually taken in single.
    weights = jax.nn.softmax(logits.astype("float32"))
    assert_measures(attended(weights, logits, 2), by_formula(values, CAUSAL))


@pytest.mark.parametrize("shift", [-(2.0**15), 2.0**15])
@pytest.mark.parametrize("mask", [True, CAUSAL], ids=["open", "causal"])
def test_what_all_keys_share_changes_the_largest_logit_alone(shift, mask):
    values = np.round(LOGITS * 64) / 64  # so that the shifted ones have no rounding
    found = measured(replaced(values + shift, mask, -np.inf, "float32"))
    (_, *expected) = by_formula(values, mask)
    (largest, *_) = by_formula(values + shift, mask)
    assert_measures(found, [largest, *expected])


@pytest.mark.parametrize("mask", [-1e9, -np.inf])
def test_honest_logits_without_a_weight_count(mask):
    huge = 100 * LOGITS
    assert np.ptp(huge) > 2000  # far more than float32's exponentials
    assert_measures(measured(replaced(huge, CAUSAL, mask, "float32")), by_formula(huge, CAUSAL))
    assert_measures(measured(huge), by_formula(huge, True))


@pytest.mark.parametrize("mask", [-1e4, -1e9, -np.inf])
def test_a_query_that_sees_no_key_does_not_count(mask):
    seen = CAUSAL & (np.arange(QUERIES) != 2)[:, None]
    assert_measures(measured(replaced(LOGITS, seen, mask, "float32")), by_formula(LOGITS, seen))


def test_logits_that_are_not_finite_are_no_masks():
    for logits in (
        np.full_like(LOGITS, np.nan),
        np.where(np.arange(QUERIES) == 1, np.nan, LOGITS),
        np.where(CAUSAL, np.full_like(LOGITS, np.nan), -np.inf),
    ):
        assert np.isnan(np.array(measured(logits))).all()
    infinite = measured(np.where(np.arange(QUERIES) == 1, np.inf, LOGITS))
    assert np.isinf(infinite.largest_logit)
    assert np.isnan(np.array(infinite[1:])).all()


def test_a_nan_that_a_mask_hides_is_not_seen():
    """A softmax of the keys that a mask lets through, over logits that are NaN elsewhere."""
    hidden = jnp.asarray(np.where(CAUSAL, LOGITS, np.nan))
    weights = jax.nn.softmax(jnp.where(CAUSAL, hidden, -jnp.inf))
    assert_measures(attended(weights, hidden, 2), by_formula(LOGITS, CAUSAL))


def by_hand(params, x):
    logits = (x @ params["query"]) @ (x @ params["key"]).swapaxes(-1, -2)
    return jax.nn.softmax(jnp.where(CAUSAL, logits, -jnp.inf)) @ (x @ params["value"])


def test_a_model_that_diverged_does_not_look_healthy():
    keys = dict(zip(("query", "key", "value"), jax.random.split(jax.random.key(1), 3), strict=True))
    params = {name: jax.random.normal(key, (4, 4)) for name, key in keys.items()}
    sick = params | {"query": jnp.full((4, 4), jnp.nan)}
    x = jax.random.normal(jax.random.key(2), (3, QUERIES, 4))
    batch = {"inputs": x, "targets": jnp.zeros_like(x)}
    found = attention(by_hand, sick, {"inputs": x})
    for name in NAMES:
        assert np.isnan(getattr(found, name)).all(), name
    assert found.table().row_count == 1
    both = [
        propagation(by_hand, each, batch, loss=losses.mean_squared_error) for each in (params, sick)
    ]
    row = both[1].kinds.index("attention")
    assert np.isnan([getattr(both[1], name)[row] for name in NAMES]).all()
    assert both[1].attention_table().row_count == 1
    for before in (None, both[0]):
        assert "not finite" in {each.problem for each in advise(both[1], before=before)}
