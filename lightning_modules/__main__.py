"""``python -m lightning_modules`` is the command ``schemenet``."""

import sys

from lightning_modules.cli import main

sys.exit(main())
