"""Signal and gradient through a model, row by row: one trace, cut after each layer."""
