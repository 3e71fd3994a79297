"""What every test shares: shapes and types of the package are checked while the tests run."""

import jax
import pytest
from jaxtyping import install_import_hook

# jaxtyping's annotations are documentation in a user's process and contracts in a test's.
install_import_hook("jaxdl", "beartype.beartype")


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)
