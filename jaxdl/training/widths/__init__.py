"""How a network starts and learns as its layers grow wider."""
