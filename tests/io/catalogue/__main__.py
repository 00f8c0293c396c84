"""Print the table: `python -m tests.io.catalogue`."""

import sys

from tests.io.catalogue.readers import outcomes
from tests.io.catalogue.table import CASES, table

sys.stdout.write(f"{table(outcomes(CASES))}\n")
