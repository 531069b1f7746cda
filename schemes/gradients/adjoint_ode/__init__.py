"""The adjoint equation and its solution backwards."""
