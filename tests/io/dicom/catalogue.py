"""Print the table: `python -m tests.io.dicom.catalogue`."""

import sys

from tests.io.dicom.case import outcomes
from tests.io.dicom.table import CATALOGUE

if __name__ == "__main__":
    sys.stdout.write(f"{CATALOGUE.table(outcomes(CATALOGUE.cases))}\n")
