"""Print the table: `python -m tests.io.catalogue`."""

import sys

from tests.io.catalogue.readers import outcomes
from tests.io.catalogue.table import CATALOGUE

sys.stdout.write(f"{CATALOGUE.table(outcomes(CATALOGUE.cases))}\n")
