"""The loss as a landscape: surfaces, paths over them, and the learning rate."""
