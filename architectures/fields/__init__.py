"""Vector fields: the residual branch of a block, without the skip. Called as ``field(node, y)``."""
