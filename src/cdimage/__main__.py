"""``python -m cdimage`` is the command line."""

import sys

from cdimage.cli.main import main

sys.exit(main())
