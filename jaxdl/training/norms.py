"""The statistics of a batch whose parts lie on several devices."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn


@contextlib.contextmanager
def synchronized_norms(axis_name: str | None) -> Iterator[None]:
    """Norms that keep running statistics take those of the whole batch, over the mapped axis.

    Inside, a module that has the field `axis_name`, None, and holds `batch_stats` is called as if
    the field were `axis_name`: a model need not be built anew to be mapped. The others, and all
    of them for None, are left alone.

    Example:
        >>> with synchronized_norms("devices"):
        ...     pass
    """
    if axis_name is None:
        yield
        return

    def over_axis(
        call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        module = context.module
        if getattr(module, "axis_name", axis_name) is None and module.variables.get("batch_stats"):
            # `apply` calls a copy of the module, which ends with the call.
            object.__setattr__(module, "axis_name", axis_name)
        return call(*args, **kwargs)

    with nn.intercept_methods(over_axis):
        yield
