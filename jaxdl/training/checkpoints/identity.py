"""The identity of a run: what a checkpoint must share with it, and what may differ."""

import os
from collections.abc import Mapping
from typing import Any

import jax

from jaxdl.files import differences, versions
from jaxdl.training.checkpoints.packing import describe

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def identify(tree: Any, *, config: Mapping[str, Any], layout: str = "jit") -> dict[str, Any]:
    """The identity of a run, as a checkpoint stores it.

    Arguments:
        tree: the pytree to save, or its `jax.ShapeDtypeStruct`s.
        config: the settings that must match, as JSON values, e.g. {"batch_size": 100}.
        layout: where the step runs, e.g. "jit" or "mesh of 8".

    Returns:
        `leaves` and `config`, which must match; `environment`, which decides the last bits.

    Example:
        >>> import jax.numpy as jnp
        >>> identify({"bias": jnp.zeros(2)}, config={"batch_size": 4})["leaves"]
        {'bias': 'float32[2]'}
    """
    devices = jax.devices()
    return {
        "leaves": describe(tree),
        "config": dict(config),
        "environment": versions(*_PACKAGES)
        | {
            "device": devices[0].device_kind,
            "devices": len(devices),
            "processes": jax.process_count(),
            "layout": layout,
            "cores": _visible_cores(),
        },
    }


def refusal(stored: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    """Why a run may not go on from a checkpoint: the differences. Empty if it may.

    Example:
        >>> refusal({"leaves": {"bias": "float32[2]"}}, {"leaves": {"bias": "bfloat16[2]"}})
        'bias is float32[2] there and bfloat16[2] here'
    """
    lines = [
        line
        for part in ("leaves", "config")
        for line in differences(stored.get(part, {}), current.get(part, {}))
    ]
    return "; ".join(lines)


def changes(stored: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    """The differences in the environment; empty if there are none.

    Example:
        >>> changes({"environment": {"cores": 8}}, {"environment": {"cores": 2}})
        'cores is 8 there and 2 here'
    """
    return "; ".join(differences(stored.get("environment", {}), current.get("environment", {})))


def _visible_cores() -> int:
    """The number of cores. XLA divides a sum among its threads, so it decides the last bits."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
