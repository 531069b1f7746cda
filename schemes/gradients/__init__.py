"""Gradient modes: who owns the loop, and what is kept for backward. One file each."""
