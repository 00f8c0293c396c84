"""Which series of a study is which channel, by rules on what the scanner wrote.

A data card states the rules and a bundle carries them; this module is read with the card, so it
imports nothing heavy.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medseg.fault import InputFault

if TYPE_CHECKING:
    from medseg.io.dicom.series import Series

# Facts of the acquisition that rules may ask for. None of them names a patient.
RULE_TAGS = (
    "AcquisitionContrast",
    "BodyPartExamined",
    "ContrastBolusAgent",
    "ConvolutionKernel",
    "EchoTime",
    "FlipAngle",
    "ImageType",
    "InversionTime",
    "MRAcquisitionType",
    "Modality",
    "ProtocolName",
    "RepetitionTime",
    "ScanOptions",
    "ScanningSequence",
    "SequenceName",
    "SequenceVariant",
    "SeriesDescription",
    "SeriesNumber",
    "Units",
)


@dataclass(frozen=True)
class ChannelRule:
    """A series fits where each tag of `has` matches its pattern and none of `lacks` does.

    Patterns are regular expressions, searched for in the tag's text without regard to case; a tag
    that is absent has an empty text.
    """

    has: Mapping[str, str]
    lacks: Mapping[str, str] = field(default_factory=dict)

    def fits(self, series: "Series") -> bool:
        """Whether the series is one of this channel."""
        return all(_found(pattern, series.fact(tag)) for tag, pattern in self.has.items()) and not (
            any(_found(pattern, series.fact(tag)) for tag, pattern in self.lacks.items())
        )


# For each channel its rules; a series that fits one of them is that channel.
ChannelRules = Mapping[str, Sequence[ChannelRule]]


def rules_to_json(rules: ChannelRules) -> dict[str, Any]:
    """The rules as plain JSON values."""
    return {
        channel: [{"has": dict(rule.has), "lacks": dict(rule.lacks)} for rule in group]
        for channel, group in rules.items()
    }


def rules_from_json(data: Mapping[str, Any]) -> dict[str, tuple[ChannelRule, ...]]:
    """The rules that a bundle carries."""
    return {
        channel: tuple(ChannelRule(rule["has"], rule.get("lacks", {})) for rule in rules)
        for channel, rules in data.items()
    }


def channel_series(
    study: Sequence["Series"], channels: Sequence[str], rules: ChannelRules
) -> tuple["Series", ...]:
    """The series of each channel, in order. Series of scouts alone are no volumes.

    Raises:
        InputFault: a channel is missing or there more than once (E_SERIES); what was found is
            listed.
    """
    study = [series for series in study if not series.is_scout] or study
    if len(channels) == 1 and channels[0] not in rules:
        if len(study) != 1:
            raise _fault(study, f"{len(study)} series, and the bundle takes one")
        return (study[0],)
    unstated = [channel for channel in channels if channel not in rules]
    if unstated:
        raise _fault(study, f"the bundle has no rule that tells which series is {unstated[0]}")
    chosen = [_one(study, channel, rules[channel]) for channel in channels]
    if len(set(map(id, chosen))) < len(chosen):
        raise _fault(study, "one series fits two channels")
    return tuple(chosen)


def chosen_series(study: Sequence["Series"], asked: Sequence[str]) -> tuple["Series", ...]:
    """The series that a user asked for, each by its number or its SeriesInstanceUID.

    Raises:
        InputFault: none or several have the number (E_SERIES).
    """
    chosen = []
    for one in asked:
        fits = [series for series in study if one in (series.uid, series.fact("SeriesNumber"))]
        if len(fits) != 1:
            shown = one if one.isdigit() else "with the UID that was given"
            raise _fault(study, f"{len(fits) or 'no'} series {shown}")
        chosen.append(fits[0])
    return tuple(chosen)


def _one(study: Sequence["Series"], channel: str, rules: Sequence[ChannelRule]) -> "Series":
    fits = [series for series in study if any(rule.fits(series) for rule in rules)]
    if not fits:
        raise _fault(study, f"no series is {channel}")
    if len(fits) > 1:
        raise _fault(fits, f"{len(fits)} series may be {channel}")
    return fits[0]


def _found(pattern: str, text: str) -> bool:
    return re.search(pattern, text, re.IGNORECASE) is not None


def _fault(study: Sequence["Series"], reason: str) -> InputFault:
    listed = "; ".join(str(series) for series in study)
    return InputFault(
        f"{reason}. Found: {listed}. Choose with --series NUMBER (a series' number or UID), once "
        "for each channel in the order of the bundle, or give a folder with those series alone.",
        code="E_SERIES",
    )
