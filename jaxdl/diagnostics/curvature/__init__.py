"""How a loss bends: the largest eigenvalues of its Hessian, their density, its trace."""
