"""The machine on which a table was made, as far as it decides times."""

import os
import re
from datetime import datetime
from pathlib import Path

from jaxdl.environment import machine, versions

EXTENSIONS = {"AVX-512": "avx512f", "AVX2": "avx2", "AVX": "avx", "NEON": "asimd"}
"""Vector instruction sets from the widest on, and the flags by which Linux names them."""
VARIABLES = ("XLA_FLAGS", "ATEN_CPU_CAPABILITY", "OMP_NUM_THREADS", "JAX_PLATFORMS")


def describe() -> dict[str, str]:
    """By its name, what a reader of times must know, in the order of a page.

    Example:
        >>> list(describe())[:4]
        ['processor', 'cores seen', 'vector instructions', 'memory']
    """
    known = machine()
    packages = {name: str(known[name]) for name in ("jax", "jaxlib", "flax", "optax", "numpy")}
    return {
        "processor": str(known["processor"]),
        "cores seen": str(known["cores"]),
        "vector instructions": vector_instructions(
            _read("/proc/cpuinfo"), os.environ.get("XLA_FLAGS", "")
        ),
        "memory": _memory(_read("/proc/meminfo")),
        "device of JAX": f"{known['devices']} x {known['device']}",
        "system": str(known["system"]),
        "Python": str(known["python"]),
        **packages,
        **versions("torch"),
        **{name: os.environ[name] for name in VARIABLES if name in os.environ},
        "date": datetime.now().isoformat(" ", "minutes"),
    }


def vector_instructions(cpuinfo: str, xla_flags: str) -> str:
    """The widest set that XLA may use: the processor's, unless XLA_FLAGS sets a narrower one.

    Arguments:
        cpuinfo: the text of /proc/cpuinfo.
        xla_flags: the value of XLA_FLAGS.

    Example:
        >>> vector_instructions("flags : fpu avx avx2 avx512f", "")
        'AVX-512'
        >>> vector_instructions("flags : avx avx2 avx512f", "--xla_cpu_max_isa=AVX2")
        'AVX2 by XLA_FLAGS (the processor has AVX-512)'
    """
    flags = set(cpuinfo.split())
    has = next((name for name, flag in EXTENSIONS.items() if flag in flags), "not known")
    limit = re.search(r"--xla_cpu_max_isa=(\S+)", xla_flags)
    return has if limit is None else f"{limit[1]} by XLA_FLAGS (the processor has {has})"


def _memory(meminfo: str) -> str:
    found = re.search(r"MemTotal:\s+(\d+) kB", meminfo)
    return f"{int(found[1]) * 1024 / 1e9:.1f} GB" if found else "not known"


def _read(path: str) -> str:
    """The file's text; empty where the system has no such file."""
    return Path(path).read_text(errors="replace") if Path(path).exists() else ""
