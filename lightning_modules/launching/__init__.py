"""Processes that do runs: on this machine, on Slurm, on Ray."""
