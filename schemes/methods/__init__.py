"""The schemes by name."""
