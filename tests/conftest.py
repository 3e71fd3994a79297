"""What every test shares: how JAX compiles, and checks of the package's shapes and types.

Four fifths of the suite's time goes into compiling small programs. So the tests keep what they
compile in one folder, for every worker and every process that a test starts, and compile without
optimisation. CI repeats the tests of initialisation, optimizers and the engine fully optimised:
XLA_FLAGS="--xla_backend_optimization_level=3 --xla_cpu_max_isa=AVX2" python -m pytest tests/...
"""

import gc
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

_LEVEL = "--xla_backend_optimization_level"
# XLA's older way to compile a fusion, in half the time. XLA ends a process that names a flag it
# does not know, so another process asks.
_QUICK = "--xla_cpu_use_fusion_emitters=false"


def _add_flags(*flags: str) -> None:
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags]).strip()


def _is_known(flag: str) -> bool:
    start = [sys.executable, "-c", "import jax; jax.devices()"]
    variables = {"XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"}
    return not subprocess.run(start, env=os.environ | variables, capture_output=True).returncode


# JAX reads XLA_FLAGS when it first looks for its devices, which no test has done yet. Workers of
# pytest-xdist find the flags that their parent has set.
if _LEVEL not in os.environ.get("XLA_FLAGS", ""):
    _add_flags(f"{_LEVEL}=0")
if _QUICK not in os.environ["XLA_FLAGS"]:
    _add_flags(*filter(_is_known, [_QUICK]))

# Processes that a test starts read the variables. This one may have imported JAX already, through
# a plugin of pytest's, so it is told as well.
_COMPILED = Path(__file__).parents[1] / ".pytest_cache" / "compiled"
for _name, _default in {
    "JAX_COMPILATION_CACHE_DIR": str(_COMPILED),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0.0,
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": -1,
}.items():
    _given = os.environ.setdefault(_name, str(_default))
    jax.config.update(_name.lower(), type(_default)(_given))

# jaxtyping's annotations are documentation in a user's process and contracts in a test's.
install_import_hook("jaxdl", "beartype.beartype")


def pytest_configure(config: pytest.Config) -> None:
    if jax.default_backend() == "gpu":  # it would multiply in TF32; the tolerances are float32's
        jax.config.update("jax_default_matmul_precision", "highest")
    # A worker may read what another is writing. JAX then warns, and compiles for itself.
    config.addinivalue_line(
        "filterwarnings", "ignore:Error reading persistent compilation cache entry"
    )


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)


# A compiled program keeps about six mappings of memory, of which Linux gives a process 65,530; one
# more ends it. So a worker lets its programs go in time; the folder has them.
_MAPPINGS = Path("/proc/self/maps")
_MOST_MAPPINGS = 30_000
_TESTS_BETWEEN = 50
_ended = 0


@pytest.fixture(autouse=True)
def _few_mappings():
    yield
    global _ended  # of this worker
    _ended += 1
    if _ended % _TESTS_BETWEEN == 0 and _MAPPINGS.exists():
        with _MAPPINGS.open() as mappings:
            too_many = sum(1 for _ in mappings) > _MOST_MAPPINGS
        if too_many:
            jax.clear_caches()
            gc.collect()
