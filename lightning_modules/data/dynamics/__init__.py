"""Trajectories of dynamical systems."""
