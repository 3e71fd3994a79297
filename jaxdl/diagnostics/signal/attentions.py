"""What attentions do with a batch: their logits, and how many keys they look at."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from jaxdl.calling import GivenMode, name_of
from jaxdl.compiling import jit_with
from jaxdl.diagnostics.signal.attending import (
    Attended,
    WeightsAndLogits,
    attended_at,
    attended_by_row,
    layers_first,
)
from jaxdl.diagnostics.signal.rows import some_examples, trace
from jaxdl.jaxprs import Segment
from jaxdl.plotting import attention_figure
from jaxdl.training.task import Batch, as_measured, parts_of, scale_images, to_measure

Values = Float[Array | np.ndarray, "..."]


@struct.dataclass
class Attention:
    r"""What `attention` measured: one entry for each attention, in order of execution.

    The fields are float32 arrays of shape (attentions,), after any axes of a `vmap`. A query that
    sees one key alone, as the first of a causal mask, has no choice: only `entropy` counts it.

    Attributes:
        largest_logit: the largest |logit| of a key that is not masked, of all heads and queries.
            NaN, as all that follows, where a model diverged. Masks are told from logits by
            differences: a key whose weight is exactly 0 is masked if it lies further below the
            query's largest logit than 4 times the largest |logit| of the keys with a weight, and
            than 350. So a mask of -1000 is known up to logits of 160.
        entropy: the mean of -sum_k w_k log w_k over the queries, in nats: 0 on one key, log n on n
            keys alike.
        least_entropy: the least entropy of a query, in nats.
        normalized_entropy: the mean over the queries of the entropy over log n, where n is the
            number of keys that a query sees: from 0 on one key to 1 on all alike.
        on_one_key: the share of queries with a weight of 0.99 or more on one key.
        names: the paths of the attentions' rows, as in `propagation`.
        keys: the numbers of keys, masked ones included.
    """

    largest_logit: Values
    entropy: Values
    least_entropy: Values
    normalized_entropy: Values
    on_one_key: Values
    names: tuple[str, ...] = struct.field(pytree_node=False)
    keys: tuple[int, ...] = struct.field(pytree_node=False)

    def table(self) -> Any:
        """A `rich.table.Table`, a line for each attention."""
        from jaxdl.diagnostics.signal.tables import attentions_table

        return attentions_table(self)

    def plot(self) -> Any:
        """A matplotlib figure of the largest logit and of the entropy, by attention.

        Of a mapped measurement it shows the mean over the runs, and each run as a thin line.
        """
        return attention_figure(
            self.names, self.largest_logit, self.normalized_entropy, self.on_one_key
        )

    def __rich__(self) -> Any:
        return self.table()

    def __repr__(self) -> str:
        from jaxdl.diagnostics.signal.tables import attentions_line

        return attentions_line(self)

    def _repr_html_(self) -> str | None:
        from jaxdl.diagnostics.signal.tables import attentions_html

        return attentions_html(self)


def attention(
    model: Any,
    variables: Any,
    batch: Batch,
    *,
    train: bool = True,
    key: Any = None,
    preprocess: Callable[[Any], Any] = scale_images,
    mode: GivenMode = None,
) -> Attention:
    r"""Measure the logits and weights of every attention: the forward pass alone, without a loss.

    $$w = \operatorname{softmax}(z), \qquad H = -\sum_k w_k \log w_k$$

    An attention is a softmax z -> w between two products of signals, in whoever's code; masks count
    as what they are, and dropout comes after. A pure function: it may be jitted, and mapped over
    keys or variables. `propagation` measures the same beside signal and gradient.

    Arguments:
        model: a model of any library, which needs no change; or a `training.Task`.
        variables: what `model.init` returned, or `state.variables`; as in `propagation`.
        batch: {"inputs": (batch, ...)}; targets are not looked at.
        train: whether dropout and batch statistics are on.
        key: the key of the dropout masks, if the model draws any.
        preprocess: a pure function of the inputs, as in `training.fit`.
        mode: how the model is told of training, as in `training.Task`.

    Raises:
        TypeError: no model, or a key that is no `jax.random.key`.
        ValueError: a model without attention, a batch without inputs or examples, a missing key.

    Example:
        >>> from jaxdl import diagnostics, models
        >>> model = models.Transformer(vocabulary=11, features=8, layers=2, heads=2, length=5)
        >>> batch = {"inputs": jnp.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])}
        >>> variables = model.init(jax.random.key(0), batch["inputs"], train=False)
        >>> found = diagnostics.attention(model, variables, batch)
        >>> found.names, bool((found.normalized_entropy > 0.5).all())
        (('block_0/attention/weights', 'block_1/attention/weights'), True)

    Source: Wortsman et al. (2023), section 3.1.1, for the largest logit; Zhai et al. (2023),
    section 3, for the entropy.
    """
    task = as_measured(model, None, preprocess=preprocess, mode=mode)
    task, variables = to_measure(task, variables)
    given = parts_of(batch)
    if "inputs" not in given:
        raise ValueError(
            f"a batch must have the key 'inputs', got {sorted(given)}; name the arrays so"
        )
    measure = jit_with(_measure, (task, train))
    measured: Attention = measure(variables, given["inputs"], key)
    return measured


def _measure(settings: tuple[Any, ...], variables: Any, inputs: Any, key: Any) -> Attention:
    task, train = settings
    inputs = task.preprocess(jax.tree.map(jnp.asarray, inputs))
    some_examples(inputs)
    traced, arguments = trace(task, variables, inputs, train=train, key=key)
    rows = [
        row for row, each in enumerate(traced.rows) if traced.sites[each.site].logits is not None
    ]
    if not rows:
        raise ValueError(
            "a model must have an attention, a softmax between two products of signals, got "
            f"{name_of(task.model)}, which has none that can be seen; see diagnostics.propagation"
        )

    def on_site(
        number: int, value: Any, tap: Any, segment: Segment, before: Mapping[Any, Any]
    ) -> tuple[Any, WeightsAndLogits | Attended | None]:
        return value, attended_at(traced.sites[number], value, segment, before)

    _, kept = traced.replay(arguments, None, on_site)
    by_row = attended_by_row(traced, layers_first(traced, kept))
    sites = [traced.sites[traced.rows[row].site] for row in rows]
    return Attention(
        **{name: values[np.array(rows)] for name, values in by_row._asdict().items()},
        names=tuple(traced.rows[row].name for row in rows),
        keys=tuple(site.shape[site.keys] for site in sites),
    )
