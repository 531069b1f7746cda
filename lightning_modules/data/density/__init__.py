"""Samples of densities."""
