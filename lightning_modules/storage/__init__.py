"""Atomic writes, and the files of a run folder."""
