"""`python -m cairnfs.cli` is `cairnfs`."""

import sys

from cairnfs.cli.main import main

sys.exit(main())
