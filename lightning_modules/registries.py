"""What a run can be made of beside the network. Nothing here imports torch."""

from schemes.registry import Registry

DATA = Registry("data set", "lightning_modules.data")
