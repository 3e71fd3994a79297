"""The identity of a run: what a checkpoint must share with it, and what may differ."""

from collections.abc import Collection, Mapping
from typing import Any

from jaxdl.environment import environment
from jaxdl.files import differences
from jaxdl.training.checkpoints.packing import describe

SCHEDULES = "schedules"
STEP = "step"
OPTIMIZER = "optimizer"
SETTINGS = "optimizer's settings"
DATA = "data"
VALIDATION = "validation"
OBSERVERS = "observers"
_ANY_VERSIONS = (DATA, VALIDATION, OBSERVERS)
_BESIDE_THE_STEP = (*_ANY_VERSIONS, SCHEDULES, "initialization", "metrics")


def identify(
    tree: Any,
    *,
    config: Mapping[str, Any],
    recipe: Mapping[str, str] | None = None,
    layout: str = "jit",
) -> dict[str, Any]:
    """The identity of a run, as a checkpoint stores it.

    Arguments:
        tree: the pytree to save, or its `jax.ShapeDtypeStruct`s.
        config: the settings that must match, as JSON values, e.g. {"batch_size": 100}.
        recipe: what is computed, as digests by name, e.g. {"loss": "81bc02f1"}. They must match
            unless the run accepts a change; but those of programs say something only within one set
            of versions and devices. Some names are special: "data", "validation" and "observers"
            are compared in any versions; "schedules" may differ, with a warning; "step" is the
            whole of the others; "optimizer's settings" are of the optimizer too.
        layout: where the step runs, e.g. "jit" or "mesh of 8".

    Returns:
        `leaves`, `config` and `recipe`, which must match; `environment`, which decides the last
        bits.

    Example:
        >>> import jax.numpy as jnp
        >>> identify({"bias": jnp.zeros(2)}, config={"batch_size": 4})["leaves"]
        {'bias': 'float32[2]'}
    """
    return {
        "leaves": describe(tree),
        "config": dict(config),
        "recipe": dict(recipe or {}),
        "environment": environment() | {"layout": layout},
    }


def refusal(
    stored: Mapping[str, Any], current: Mapping[str, Any], accept: Collection[str] = ()
) -> str:
    """Why a run may not go on from a checkpoint: the differences. Empty if it may.

    Arguments:
        accept: the parts of the recipe that may differ.

    Example:
        >>> refusal({"leaves": {"bias": "float32[2]"}}, {"leaves": {"bias": "bfloat16[2]"}})
        'bias is float32[2] there and bfloat16[2] here'
        >>> refusal({"recipe": {"data": "81bc"}}, {"recipe": {"data": "02f1"}})
        "another data than there, which accept_changes=('data',) allows"
        >>> refusal({"recipe": {"data": "81bc"}}, {"recipe": {"data": "02f1"}}, ["data"])
        ''
    """
    lines = [
        line
        for part in ("leaves", "config")
        for line in differences(stored.get(part, {}), current.get(part, {}))
    ]
    changed = _changed_recipe(stored, current)
    refused = [name for name in changed if name not in {*accept, SCHEDULES}]
    if refused:
        needed = tuple(name for name in changed if name != SCHEDULES)
        lines.append(
            f"another {' and '.join(refused)} than there, which accept_changes={needed} allows"
        )
    return "; ".join(lines)


def changes(stored: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    """How a run differs that goes on from a checkpoint; empty if it does not.

    Example:
        >>> changes({"environment": {"cores": 8}}, {"environment": {"cores": 2}})
        'equal to rounding, not bit for bit: cores is 8 there and 2 here'
        >>> changes({"recipe": {"schedules": "81bc"}}, {"recipe": {"schedules": "02f1"}})
        'with another recipe than before: schedules'
    """
    recipe = _changed_recipe(stored, current)
    if recipe:
        return f"with another recipe than before: {' and '.join(recipe)}"
    environment = differences(stored.get("environment", {}), current.get("environment", {}))
    return (environment and f"equal to rounding, not bit for bit: {'; '.join(environment)}") or ""


def _changed_recipe(stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """The parts of the recipe that both know, and that differ."""
    there, here = stored.get("recipe", {}), current.get("recipe", {})
    environments = [dict(each.get("environment", {})) for each in (stored, current)]
    for each in environments:
        each.pop("cores", None)
    comparable = environments[0] == environments[1]
    changed = list(
        dict.fromkeys(
            OPTIMIZER if name == SETTINGS else name
            for name in here
            if name in there and there[name] != here[name]
            if comparable or name in _ANY_VERSIONS
        )
    )
    # The step is the whole: it is named where no part of it is.
    parts = [name for name in changed if name not in _BESIDE_THE_STEP]
    return changed if parts == [STEP] else [name for name in changed if name != STEP]
