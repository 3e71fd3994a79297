"""A page of a run that renews itself while the run goes on."""

import os
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdl.checks import Count, require_at_least
from jaxdl.factories import factory
from jaxdl.files import as_path, partial_folder, require_no_folder
from jaxdl.observers.lines import read_lines
from jaxdl.observers.page_run import DATA, PAGE, PageRun
from jaxdl.observers.probe import make_probe
from jaxdl.training.fit.observing import Event, Observer, Setup


@factory
def page(
    folder: str | os.PathLike[str],
    *,
    every: Count | None = 1,
    examples: Count = 100,
    batch: Mapping[str, Any] | None = None,
    updates: bool = True,
    overhead: float = 0.03,
) -> Observer:
    r"""Write `page.html`: curves of the run, its signal and gradient, and what is wrong.

    Open the file in a browser, from disk. It renews itself while the run lasts, and then says how
    the run ended. Of a process that was killed it shows when the last epoch ended. It shows loss
    and metrics, the learning rate, examples a second and the time left. On the same examples each
    time, it measures `diagnostics.propagation`, what `diagnostics.advise` says of it, and how
    activations and weights are distributed. If an optimizer records what it clips, see
    `clipped_share`, the page shows that too.

    The page is written at an epoch's end, if its cost allows it:

    $$\text{cost of the last page} \le \tfrac{1}{2}\,\text{overhead} \times
      \text{seconds of training since}$$

    The same holds for the measurement. The first and the last epoch are always shown. The first
    measurement also compiles a program, which is not counted.

    The page comes from the history, which a resumed run has whole. What the history does not have
    is kept in `page.jsonl`, a line an epoch. Give each run its own folder. Only the first process
    writes. The run's numbers do not change by it. If a page cannot be drawn or written, there is a
    warning, and the run goes on.

    Arguments:
        folder: where the files go, created if missing.
        every: epochs between two measurements, at least 1; None measures nothing.
        examples: how many of the first training examples to measure on, 2 or more.
        batch: {"inputs": ..., "targets": ...} to use instead of them.
        updates: whether to measure the optimizer's next update too; False for an optimizer that
            needs more than the gradient, such as `sam`.
        overhead: the share of the training time that the page may take, above 0 and at most 1.

    Raises:
        ValueError: a number is out of range; from `fit`, `page.jsonl` is of something else.
        OSError: from `fit`, the folder cannot be written, or is a file.

    Example:
        >>> import tempfile
        >>> from jaxdl import data, losses, models, optimizers, training
        >>> folder = tempfile.mkdtemp()
        >>> x = jnp.linspace(-1, 1, 64)[:, None]
        >>> result = training.fit(
        ...     models.MLP([8, 1]), (x, x**2), optimizers.adam(0.01), epochs=3, batch_size=16,
        ...     loss=losses.mean_squared_error, key=jax.random.key(0), observers=[page(folder)])
        >>> text = (as_path(folder) / "page.html").read_text()
        >>> "Ended at" in text, text.count("<figcaption>loss")
        (True, 1)
    """
    require_at_least(1, every=every)
    require_at_least(2, examples=examples)
    if not 0 < overhead <= 1:
        raise ValueError(
            f"overhead must be a share of the time, above 0 and at most 1, got {overhead}; "
            "0.03 is usual"
        )
    folder, probe = as_path(folder), make_probe(batch, examples)
    run: PageRun | None = None
    around: BaseException | None = None

    def check(setup: Setup) -> None:
        nonlocal run, around
        run, around = None, sys.exception()
        if jax.process_index() != 0:
            return
        try:
            with partial_folder(folder):
                require_no_folder(folder / PAGE)
                require_no_folder(folder / DATA)
        except OSError as error:
            raise OSError(
                f"the page's folder must be one that can be written, got {folder} ({error}); "
                "pass another folder"
            ) from error
        if (folder / DATA).exists():
            read_lines(folder / DATA)
        run = PageRun(folder, setup, probe, every, updates, overhead)

    def observe(event: Event, memory: Any) -> tuple[Any, None]:
        nonlocal run
        if event.epoch_ended and jax.process_index() == 0:
            if run is None:
                run = PageRun(folder, event.setup, probe, every, updates, overhead)
            run.epoch_ended(event)
        return memory, None

    def close() -> None:
        nonlocal run, around
        if run is not None:
            # Inside of an `except` of the caller's there is an error that did not end this run.
            error = sys.exception()
            run.ended(None if error is around else error)
        run = around = None

    return Observer(observe, check=check, close=close)


def clipped_share(gradients: Any, updates: Any) -> dict[str, Float[Array, ""]]:
    r"""The share of the gradient's entries that a clip changed, for `optimizers.recorded`.

    $$\frac{1}{n} \sum_{i=1}^{n} \bigl[\, u_i \ne g_i \,\bigr]$$

    of n entries in all leaves. A clip by norm changes all entries that are not 0, or none. `page`
    shows it by step.

    Arguments:
        gradients: what the clip is given, a pytree of arrays.
        updates: what it makes of them, of the same structure.

    Returns:
        {"clipped": the share, from 0 to 1}.

    Example:
        >>> from jaxdl import optimizers
        >>> clip = optimizers.recorded(optimizers.clip_by_value(1.0), clipped_share, steps=500)
        >>> optimizer = optimizers.chain(clip, optimizers.adam(1e-3))
        >>> clipped_share({"w": jnp.array([0.5, 4.0])}, {"w": jnp.array([0.5, 1.0])})["clipped"]
        Array(0.5, dtype=float32)

    Source: Pascanu, Mikolov and Bengio (2013), section 3.2, for watching how often a clip acts.
    """
    changed = jax.tree.map(lambda gradient, update: gradient != update, gradients, updates)
    leaves = jax.tree.leaves(changed)
    count = sum(leaf.size for leaf in leaves)
    total = sum((jnp.sum(leaf) for leaf in leaves), jnp.zeros((), jnp.int32))
    return {"clipped": total.astype(jnp.float32) / max(count, 1)}
