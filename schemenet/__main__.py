"""``python -m schemenet``: the command."""

import sys

from lightning_modules.cli import main

sys.exit(main())
