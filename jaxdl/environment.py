"""What a number was computed with: packages, device and machine."""

import os
import platform
import sys
from importlib import metadata
from pathlib import Path

import jaxdl

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "jaxdl")


def environment() -> dict[str, str | int]:
    """What decides the last bits of a computation: versions, devices, processes, cores.

    XLA divides a sum among its threads, hence the cores.

    Example:
        >>> environment()["device"]
        'cpu'
    """
    import jax  # `versions` is needed most where JAX cannot be imported

    devices = jax.devices()
    return versions(*_PACKAGES) | {
        "device": devices[0].device_kind,
        "devices": len(devices),
        "processes": jax.process_count(),
        "cores": _visible_cores(),
    }


def machine() -> dict[str, str | int]:
    """`environment()` with what a reader wants to know, too: Python, system and processor.

    Example:
        >>> machine()["python"] == platform.python_version()
        True
    """
    return environment() | {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
    }


def versions(*packages: str) -> dict[str, str]:
    """The installed versions, by the names that installers use; jaxdl's is that of its source.

    Example:
        >>> versions("no-such-package")
        {'no-such-package': 'not installed'}
        >>> versions("jaxdl") == {"jaxdl": jaxdl.__version__}
        True
    """

    def version(package: str) -> str:
        if package == "jaxdl":
            return jaxdl.__version__
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return "not installed"

    return {package: version(package) for package in packages}


def _visible_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    """The processor's name, where the system tells it."""
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
