"""The loss as a landscape: surfaces, paths over it, and the rate at which it is descended."""
