"""Figures of runs and schemes."""
