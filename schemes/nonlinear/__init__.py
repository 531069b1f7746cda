"""Solvers of the equations of implicit schemes."""
