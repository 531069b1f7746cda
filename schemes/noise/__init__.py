"""Noise on a step: random weights of the evaluations that it adds to the state."""
