"""Programs as JAX traces them, labelled: what a model's modules compute, wherever they do it."""
