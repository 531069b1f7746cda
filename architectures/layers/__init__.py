"""Layers that networks share: norms, stems, transitions, activations."""
