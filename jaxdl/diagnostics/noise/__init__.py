"""How much the gradients of single examples differ."""
