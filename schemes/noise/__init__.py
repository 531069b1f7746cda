"""Noise on the steps of a flow."""
