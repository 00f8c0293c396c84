"""Standardized uptake values of PET: activity per body weight and injected dose.

SUVbw = activity (Bq/ml) x weight (g) / dose (Bq), the dose decayed to the moment that the activity
was corrected to (QIBA FDG-PET/CT profile, SUV calculation; PS3.3 C.8.9.1 for the attributes).
"""

from datetime import datetime, timedelta

from pydicom.dataset import Dataset

from medseg.fault import InputFault

PET_TAGS = (
    "Units",
    "SUVType",
    "CorrectedImage",
    "DecayCorrection",
    "PatientWeight",
    "RadiopharmaceuticalInformationSequence",
    "SeriesDate",
    "SeriesTime",
    "AcquisitionDate",
    "AcquisitionTime",
    "TimezoneOffsetFromUTC",
)
MOST_HALF_LIVES = 10
# Of a slower nuclide the scan may be days after the injection, which a clock alone does not tell.
LONGEST_HALF_LIFE_S = 4 * 3600
LONGEST_BY_CLOCK_S = 12 * 3600
# Less than any scan is made with, and a thousandth of it: a dose that was told in MBq.
LEAST_DOSE_BQ = 1e5


def suv_factor(header: Dataset) -> float:
    """What a value of this slice (after its rescale) is multiplied by to be SUVbw, in g/ml.

    Raises:
        InputFault: the header does not allow it (E_SUV); the sentence says what is missing.
    """
    units = str(header.get("Units") or "")
    if units == "GML" and str(header.get("SUVType") or "BW") == "BW":
        return 1.0
    if units != "BQML":
        raise _fault(f"Units is {units or 'missing'}; BQML, or GML by body weight, is read")
    corrected = set(header.get("CorrectedImage") or ())
    if not {"ATTN", "DECY"} <= corrected:
        raise _fault("CorrectedImage lacks ATTN or DECY: attenuation and decay are not corrected")
    weight_kg = float(header.get("PatientWeight") or 0)
    if not 0 < weight_kg < 700:
        raise _fault("PatientWeight is missing or impossible")
    return weight_kg * 1000 / _dose_bq(header)


def _dose_bq(header: Dataset) -> float:
    """The injected dose, decayed to the reference moment of the decay correction."""
    given = header.get("RadiopharmaceuticalInformationSequence")
    if not given:
        raise _fault("RadiopharmaceuticalInformationSequence is missing")
    dose_bq = float(given[0].get("RadionuclideTotalDose") or 0)
    half_life_s = float(given[0].get("RadionuclideHalfLife") or 0)
    if dose_bq <= 0 or half_life_s <= 0:
        raise _fault("RadionuclideTotalDose or RadionuclideHalfLife is missing")
    if dose_bq < LEAST_DOSE_BQ:
        raise _fault(f"RadionuclideTotalDose is {dose_bq:g} Bq, too little; it may be in MBq")
    correction = str(header.get("DecayCorrection") or "")
    if correction == "ADMIN":
        return dose_bq
    if correction != "START":
        raise _fault(f"DecayCorrection is {correction or 'missing'}; START or ADMIN is read")
    return dose_bq * 0.5 ** (_uptake_s(header, given[0], half_life_s) / half_life_s)


def _uptake_s(header: Dataset, given: Dataset, half_life_s: float) -> float:
    """Seconds from the injection to the start of the series."""
    start = _moment(header, "Series")
    first = _moment(header, "Acquisition")
    # A series time after an acquisition is that of a later reconstruction.
    if first is not None and (start is None or start > first):
        raise _fault(
            "SeriesTime is later than an acquisition (a later reconstruction), so the moment of "
            "the decay correction is unknown"
        )
    _refuse_other_zone(header, given)
    injected = _injected(given, start, half_life_s)
    if start is None or injected is None:
        raise _fault("SeriesTime or the start time of the radiopharmaceutical is missing")
    uptake_s = (start - injected).total_seconds()
    if not 0 <= uptake_s <= MOST_HALF_LIVES * half_life_s:
        raise _fault(
            f"the scan begins {uptake_s / 60:.0f} minutes after the injection, of a nuclide of "
            f"{half_life_s / 60:.0f} minutes half-life"
        )
    return uptake_s


def _refuse_other_zone(header: Dataset, given: Dataset) -> None:
    """An injection told with an offset to UTC needs that of the scan, and the same."""
    whole = str(given.get("RadiopharmaceuticalStartDateTime") or "")
    offset = whole[14:].lstrip(".0123456789").strip()
    if offset and offset != str(header.get("TimezoneOffsetFromUTC") or "").strip():
        raise _fault(
            "the injection is told in a time zone (RadiopharmaceuticalStartDateTime), the scan in "
            "another or in none (TimezoneOffsetFromUTC)"
        )


def _injected(given: Dataset, start: datetime | None, half_life_s: float) -> datetime | None:
    whole = given.get("RadiopharmaceuticalStartDateTime")
    if whole:
        return _parsed(str(whole)[:14])
    clock = given.get("RadiopharmaceuticalStartTime")
    if not clock or start is None:
        return None
    if half_life_s > LONGEST_HALF_LIFE_S:
        raise _fault(
            "the day of the injection is missing (RadiopharmaceuticalStartDateTime), which a "
            f"half-life of {half_life_s / 3600:.0f} hours needs"
        )
    injected = _parsed(start.strftime("%Y%m%d") + str(clock).split(".")[0].ljust(6, "0"))
    # An injection before midnight of a scan after it.
    if injected is not None and injected > start:
        injected -= timedelta(days=1)
        if (start - injected).total_seconds() > LONGEST_BY_CLOCK_S:
            raise _fault("the scan begins before the injection")
    return injected


def _moment(header: Dataset, kind: str) -> datetime | None:
    date, clock = header.get(f"{kind}Date"), header.get(f"{kind}Time")
    if not date or not clock:
        return None
    return _parsed(str(date) + str(clock).split(".")[0].ljust(6, "0"))


def _parsed(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, "%Y%m%d%H%M%S")
    except ValueError:
        return None


def _fault(reason: str) -> InputFault:
    return InputFault(
        f"its PET values cannot be turned into SUV by body weight: {reason}. Export the series "
        "with it, or in GML.",
        code="E_SUV",
    )
