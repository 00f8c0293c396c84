"""Print the table: `python -m tests.io.dicom.catalogue`."""

import sys

from tests.io.dicom.case import outcomes
from tests.io.dicom.table import CASES, table

if __name__ == "__main__":
    sys.stdout.write(f"{table(outcomes(CASES))}\n")
