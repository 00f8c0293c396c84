"""`python -m medseg.cli`."""

import sys

from medseg.cli.main import main

sys.exit(main())
