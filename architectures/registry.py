"""The registries of networks and of their parts. Nothing here imports torch."""

from schemes.registry import Registry

ARCHITECTURES = Registry("architecture", "architectures", context=("num_classes", "in_chans", "image_size"))
FIELDS = Registry(
    "field", "architectures.fields", context=("channels", "out", "inner", "stride", "order", "norm", "lead")
)
