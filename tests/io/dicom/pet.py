"""PET series: activity that becomes SUV by body weight, and headers that do not allow it."""

from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import PositronEmissionTomographyImageStorage

from tests.io.dicom.phantom import Made, Storing

WEIGHT_KG = 80.0
DOSE_BQ = 370e6
HALF_LIFE_S = 6586.2
# Injected at 09:15, scanned from 10:15.
UPTAKE_S = 3600.0
ADMIN_FACTOR = WEIGHT_KG * 1000 / DOSE_BQ
START_FACTOR = ADMIN_FACTOR / 0.5 ** (UPTAKE_S / HALF_LIFE_S)
STORING = Storing(slopes=(0.5, 1.0, 0.25), intercepts=(0.0,))


def dose(**changes: Any) -> list[Dataset]:
    """RadiopharmaceuticalInformationSequence; what is None is left out."""
    item = Dataset()
    told = {
        "RadiopharmaceuticalStartTime": "091500.00",
        "RadionuclideTotalDose": str(int(DOSE_BQ)),
        "RadionuclideHalfLife": str(HALF_LIFE_S),
        **changes,
    }
    for name, value in told.items():
        if value is not None:
            setattr(item, name, value)
    return [item]


def scan(*, lacks: tuple[str, ...] = (), **changes: Any) -> Made:
    """A scan whose decay is corrected to its start."""
    header = {
        "Modality": "PT",
        "Units": "BQML",
        "CorrectedImage": ["NORM", "DTIM", "ATTN", "SCAT", "DECY"],
        "DecayCorrection": "START",
        "PatientWeight": str(WEIGHT_KG),
        "RadiopharmaceuticalInformationSequence": dose(),
        "AcquisitionTime": "101500.5",
        **changes,
    }
    return Made(
        storing=STORING,
        header=header,
        lacks=lacks,
        sop_class=PositronEmissionTomographyImageStorage,
    )


MIDNIGHT = {
    "SeriesTime": "001500",
    "AcquisitionTime": "001500",
    "RadiopharmaceuticalInformationSequence": dose(RadiopharmaceuticalStartTime="231500"),
}
WHOLE_MOMENT = dose(
    RadiopharmaceuticalStartTime=None, RadiopharmaceuticalStartDateTime="20240229091500.000000"
)
SCANS: tuple[tuple[str, Made, float], ...] = (
    ("PET from its start", scan(), START_FACTOR),
    ("PET from the injection", scan(DecayCorrection="ADMIN"), ADMIN_FACTOR),
    ("PET over midnight", scan(**MIDNIGHT), START_FACTOR),
    (
        "PET, injection by date and time",
        scan(RadiopharmaceuticalInformationSequence=WHOLE_MOMENT),
        START_FACTOR,
    ),
    ("PET in grams a milliliter", scan(Units="GML"), 1.0),
)
REFUSED: tuple[tuple[str, Made], ...] = (
    ("PET without a dose", scan(lacks=("RadiopharmaceuticalInformationSequence",))),
    (
        "PET with a dose of nothing",
        scan(RadiopharmaceuticalInformationSequence=dose(RadionuclideTotalDose="0")),
    ),
    (
        "PET with a dose in MBq",
        scan(RadiopharmaceuticalInformationSequence=dose(RadionuclideTotalDose="370")),
    ),
    ("PET without a weight", scan(lacks=("PatientWeight",))),
    ("PET in counts", scan(Units="CNTS")),
    ("PET in grams by lean body mass", scan(Units="GML", SUVType="LBM")),
    ("PET without attenuation correction", scan(CorrectedImage=["NORM", "DECY"])),
    ("PET without decay correction", scan(DecayCorrection="NONE")),
    ("PET injected after the scan", scan(SeriesTime="090000", AcquisitionTime="090000")),
    (
        "PET of a slow nuclide, the day of its injection not told",
        scan(RadiopharmaceuticalInformationSequence=dose(RadionuclideHalfLife="282276")),
    ),
    ("PET reconstructed later", scan(SeriesTime="120000")),
    (
        "PET whose injection is told in another time zone",
        scan(
            RadiopharmaceuticalInformationSequence=dose(
                RadiopharmaceuticalStartTime=None,
                RadiopharmaceuticalStartDateTime="20240229081500+0000",
            )
        ),
    ),
)
