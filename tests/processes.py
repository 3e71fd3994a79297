"""What a test needs to start a process of its own."""

import os
import sys

# Warnings are errors in it, as in the tests, but for the one that tests/conftest.py lets pass.
STRICT_PYTHON = [
    *(sys.executable, "-W", "error"),
    *("-W", "ignore:Error reading persistent compilation cache entry"),
]


def environment(xla_flags: str = "", **variables: str) -> dict[str, str]:
    """This process's environment on CPUs, with `xla_flags` added to its XLA_FLAGS."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} {xla_flags}".strip()
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags} | variables


def with_devices(count: int, **variables: str) -> dict[str, str]:
    """An environment whose CPU counts as so many devices."""
    return environment(f"--xla_force_host_platform_device_count={count}", **variables)
