"""Densities: normalizing flows, discrete and continuous."""
