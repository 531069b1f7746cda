"""Grids and loops: how a scheme steps over an interval."""
