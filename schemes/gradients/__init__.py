"""Gradient modes."""
