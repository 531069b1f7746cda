"""Irregular time series."""
