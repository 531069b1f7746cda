"""Config groups: yaml files that only name things. Their schema is the signature of what they name."""
