"""Why does this network train, or not? Pure functions in JAX that answer by measurement."""
