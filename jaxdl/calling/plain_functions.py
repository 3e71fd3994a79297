"""Plain functions of parameters and inputs, and pairs of `init` and `apply` as Haiku makes them."""

import functools
import inspect
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxdl.calling.adapted import (
    KEYS,
    Adapted,
    Start,
    Variables,
    key_argument,
    parameters_of,
    part_of,
)


def _inputs(params: Any, inputs: Any) -> Any:
    return inputs


def _nothing(key: Any, inputs: Any) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class FunctionModel(Adapted):
    """outputs = function(params, inputs), with parameters of any form.

    Attributes:
        function: the function. A key is handed to an argument named as in `adapted.KEYS`.
    """

    function: Callable[..., Any] = field(default=_inputs, repr=False)

    def arguments(self) -> list[tuple[str, inspect.Parameter]]:
        """The arguments after the parameters, without the key."""
        found = parameters_of(self.function)
        if found and found[0][1].kind is not inspect.Parameter.VAR_POSITIONAL:
            found = found[1:]
        return [each for each in found if each[0] != key_argument(found)]

    def apply(
        self,
        variables: Mapping[str, Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        train: bool,
        key: Key[Array, ""] | None,
    ) -> tuple[Any, Variables]:
        """The function of the parameters."""
        del train
        name = key_argument(parameters_of(self.function))
        keys = {} if name is None else {name: key}
        return self.function(variables["params"], *args, **kwargs, **keys), {}

    def _module(self, variables: Mapping[str, Any]) -> Any:
        return variables["params"]

    def read(self, given: Any) -> Variables:
        """The parameters.

        Raises:
            TypeError: a leaf is no array of floats.
        """
        return {"params": _checked(self.name, given)}

    def variables(self, given: Any) -> Variables:
        """The parameters that were given; {"params": ...} alone are variables of this library."""
        if isinstance(given, Mapping) and set(given) == {"params"}:
            given = given["params"]
        elif given is None:
            return super().variables(None)
        return self.read(given)


def _checked(name: str, given: Any) -> Any:
    """Parameters that can be learned.

    Raises:
        TypeError: a leaf is no array of floats.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(given):
        is_array = hasattr(leaf, "dtype") and hasattr(leaf, "shape")
        if not is_array or not jnp.issubdtype(leaf.dtype, jnp.inexact):
            got = f"{leaf.dtype}" if is_array else repr(leaf)
            raise TypeError(
                f"the parameters of {name} must be arrays of floats, got "
                f"{'/'.join(map(part_of, path)) or 'one value'}: {got}; keep what is not "
                "learned out of them, e.g. in a functools.partial of the function"
            )
    return given


@dataclass(frozen=True)
class PairModel(Adapted):
    """A pair of `init` and `apply`, such as `haiku.transform` gives.

    The signature of `apply` says what it takes before the inputs: `params`, then perhaps `state`
    and `rng`, in this order.

    Attributes:
        make: init(rng, inputs...) -> params, or (params, state).
        function: apply(params, [state,] [rng,] inputs...) -> outputs, or (outputs, state).
    """

    make: Callable[..., Any] = field(default=_nothing, repr=False)
    function: Callable[..., Any] = field(default=_inputs, repr=False)

    @property
    def has_state(self) -> bool:
        """Whether it has a state beside the parameters."""
        return "state" in self._leading()

    def _leading(self) -> list[str]:
        found = parameters_of(self.function)[1:]
        taken = itertools.takewhile(
            lambda each: each[0] in ("state", *KEYS) and each[1].kind is not each[1].KEYWORD_ONLY,
            found,
        )
        return [name for name, _ in taken]

    def _named_key(self) -> str | None:
        """The key's argument where it does not stand before the inputs."""
        found = parameters_of(self.function)[1:]
        return key_argument([each for each in found if each[0] not in self._leading()])

    def arguments(self) -> list[tuple[str, inspect.Parameter]]:
        """The arguments after those."""
        given = {*self._leading(), self._named_key()}
        return [each for each in parameters_of(self.function)[1:] if each[0] not in given]

    def apply(
        self,
        variables: Mapping[str, Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        train: bool,
        key: Key[Array, ""] | None,
    ) -> tuple[Any, Variables]:
        """`apply` of the parameters, the state and the key."""
        del train
        leading = [
            variables.get("state", {}) if name == "state" else key for name in self._leading()
        ]
        name = self._named_key()
        keys = {} if name is None else {name: key}
        outputs = self.function(variables["params"], *leading, *args, **kwargs, **keys)
        if not self.has_state:
            return outputs, {}
        outputs, state = outputs
        return outputs, {"state": state}

    def init(self, key: Key[Array, ""], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """`init` of the key and the inputs."""
        return self.read(self.make(key, *args, **kwargs))

    def read(self, given: Any) -> Variables:
        """Parameters, or (parameters, state), by name."""
        if not self.has_state:
            return {"params": given}
        if not isinstance(given, tuple) or len(given) != 2:
            raise TypeError(
                f"variables of {self.name} must be (params, state), as its init gives them, got "
                f"{type(given).__name__}; pass both"
            )
        params, state = given
        return {"params": params, **({"state": state} if jax.tree.leaves(state) else {})}

    def _module(self, variables: Mapping[str, Any]) -> Any:
        if not self.has_state:
            return variables["params"]
        return variables["params"], variables.get("state", {})


def function_start(init: Callable[..., Any] | None) -> Start:
    """The start that `init(key)` or `init(key, inputs)` draws."""
    if init is None:
        return Start()
    takes = parameters_of(init)
    with_inputs = len(takes) > 1 or any(each.kind is each.VAR_POSITIONAL for _, each in takes)

    return Start(draw=functools.partial(_drawn, init, with_inputs))


def _drawn(
    init: Callable[..., Any], with_inputs: bool, key: Key[Array, ""], *inputs: Any
) -> Variables:
    drawn = init(key, *inputs) if with_inputs else init(key)
    return {"params": _checked("the function", drawn)}
