"""Stability regions, spectra and reference problems."""
