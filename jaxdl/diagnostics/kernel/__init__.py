"""Jacobians, tangent kernels and linear models: what a network does near a point."""
