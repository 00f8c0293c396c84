"""Data set cards: what a data set holds, where its files lie, and how to get it.

A card is a YAML file. Those of `datasets/` come with medseg and go by their names; a card of one's
own goes by its path. `datasets/README.md` explains every key.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from medseg.data.card_faults import nearest, sentences
from medseg.data.located import read_located
from medseg.fault import InputFault, all_at_once
from medseg.io.dicom.channels import RULE_TAGS, ChannelRule
from medseg.io.label_table import read_label_table
from medseg.shipped import shipped_files
from medseg.volume import LabelTable, Region, Target

Layout = Literal["folder", "msd", "nnunet"]
DEMO_HINT = (
    "To try the recipe with nothing downloaded, add --demo: it trains on a synthetic set with the "
    "same channels and labels."
)


def _read_regex(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as fault:
        raise ValueError(f"{pattern!r} is no regular expression: {fault}") from fault
    return pattern


def _read_table(labels: Any, info: ValidationInfo) -> LabelTable | None:
    """The table of a CSV beside the card, or of `value: name` lines."""
    if labels is None or isinstance(labels, LabelTable):
        return labels
    if isinstance(labels, str):
        return read_label_table(Path((info.context or {})["folder"]) / labels)
    if not isinstance(labels, dict) or not all(isinstance(n, str) for n in labels.values()):
        raise ValueError("labels are a CSV file or `value: name` lines")
    if strangers := [value for value in labels if not value.isdigit()]:
        raise ValueError(f"label values are whole numbers, not {', '.join(strangers)}")
    return LabelTable.from_names({int(value): name for value, name in labels.items()})


Patterns = str | tuple[str, ...]
Regex = Annotated[str, BeforeValidator(_read_regex)]
Table = Annotated[LabelTable | None, BeforeValidator(_read_table)]
Triple = tuple[float, float, float]


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True
    )


class Files(_Section):
    """Where a case's files lie under the root, as patterns with the placeholder `{case}`.

    `images` holds a pattern for each channel, or one pattern for a 4D file with all channels.
    Several patterns are alternatives. `case` is what a case's name may look like.
    """

    images: dict[str, Patterns] | Patterns
    label: Patterns
    case: Regex = "[^/]+"

    @model_validator(mode="after")
    def _refuse_nameless(self) -> Self:
        images = self.images if isinstance(self.images, dict) else {"images": self.images}
        for name, patterns in {**images, "label": self.label}.items():
            for pattern in alternatives(patterns):
                if "{case}" not in pattern:
                    raise ValueError(f"{name}: {pattern!r} has no {{case}}")
        return self


class SeriesRule(_Section):
    """Which DICOM series is a channel: patterns over tags, and those that must not be found."""

    has: dict[str, Regex]
    lacks: dict[str, Regex] = {}

    @model_validator(mode="after")
    def _refuse_strangers(self) -> Self:
        for tag in (*self.has, *self.lacks):
            if tag not in RULE_TAGS:
                raise ValueError(
                    f"{tag} is no tag that series are told by{nearest(tag, RULE_TAGS)}; they are "
                    f"{', '.join(RULE_TAGS)}"
                )
        if not self.has:
            raise ValueError("has names no tag")
        return self


class FixedSplit(_Section):
    """Cases that the community trains on, and those it validates on."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


class Lesion(_Section):
    """The label values of a synthetic lesion's parts."""

    edema: int
    core: int
    enhancing: int


class Phantom(_Section):
    """What a synthetic set in this card's place looks like; `case` numbers its cases by `{n}`."""

    kind: Literal["brain", "organs"] = "organs"
    case: str = "case_{n:03d}"
    shape: tuple[int, int, int] = (64, 64, 48)
    spacing_mm: Triple = (1.0, 1.0, 1.0)
    lesion: Lesion | None = None
    channels: tuple[str, ...] = ("image",)
    labels: dict[int, str] = Field(default={1: "left organ", 2: "right organ"})


class Card(_Section):
    """A data set: names, layout, channels, labels and where it comes from.

    `channels` and `labels` may be None with the layouts whose dataset.json tells them; stated
    nevertheless, they are checked against it. `mirrored` are the pairs of label values that
    change places in a mirror, where names do not tell them. `patient` is a regular expression over
    case names whose first group is the patient; without it each case is a patient of its own.
    """

    name: str
    title: str
    layout: Layout
    modality: str = "MR"
    channels: tuple[str, ...] | None = None
    labels: Table = None
    regions: tuple[Region, ...] = ()
    mirrored: tuple[tuple[int, int], ...] | None = None
    files: Files | None = None
    dicom: dict[str, SeriesRule | tuple[SeriesRule, ...]] = {}
    patient: Regex | None = None
    split: FixedSplit | None = None
    licence: str
    citation: str = ""
    how_to_get: str
    notes: str = ""
    phantom: Phantom = Phantom()

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        if self.layout == "folder":
            _refuse_folder_gaps(self)
        elif self.files is not None:
            raise ValueError(f"files: layout {self.layout} knows its own; leave files out")
        if strangers := [name for name in self.dicom if name not in (self.channels or ())]:
            raise ValueError(f"dicom: {', '.join(strangers)} is not among the channels")
        if self.patient is not None and re.compile(self.patient).groups < 1:
            raise ValueError(f"patient: {self.patient!r} has no group (...) that is the patient")
        if self.labels is not None:
            Target(self.with_mirrored(self.labels), self.regions)
        elif self.regions:
            raise ValueError("regions: they need labels")
        return self

    @property
    def channel_rules(self) -> dict[str, tuple[ChannelRule, ...]]:
        """For each channel that the card tells how to find in a DICOM study: the rules."""
        rules = {
            name: (stated,) if isinstance(stated, SeriesRule) else stated
            for name, stated in self.dicom.items()
        }
        return {
            name: tuple(ChannelRule(rule.has, rule.lacks) for rule in group)
            for name, group in rules.items()
        }

    def with_mirrored(self, labels: LabelTable) -> LabelTable:
        """The labels with the pairs that the card states."""
        if self.mirrored is None:
            return labels
        try:
            return LabelTable(labels.labels, mirrored=self.mirrored)
        except InputFault as fault:
            raise InputFault(f"data set card {self.name}: {fault}", code=fault.code) from fault

    def target(self, *, regions: bool) -> Target:
        """What a network is asked for; the labels must be stated on the card."""
        assert self.labels is not None, "open the listing: its dataset.json tells the labels"
        labels = self.with_mirrored(self.labels)
        return choose_target(labels, self.regions if regions else None, place=self.name)


KEYS = {
    "": list(Card.model_fields),
    "files": list(Files.model_fields),
    "dicom": list(SeriesRule.model_fields),
    "split": list(FixedSplit.model_fields),
    "phantom": list(Phantom.model_fields),
    "lesion": list(Lesion.model_fields),
    "regions": ["name", "members", "value"],
}


def choose_target(labels: LabelTable, regions: tuple[Region, ...] | None, *, place: str) -> Target:
    """The regions as a target, or the labels where `regions` is None."""
    if regions is not None and not regions:
        raise InputFault(
            f"{place}: it names no regions; train on its labels (loss dice_ce), or add regions "
            "to the card.",
            code="E_CARD",
        )
    return Target(labels, regions or ())


def alternatives(patterns: Patterns) -> tuple[str, ...]:
    """One or several patterns as a tuple."""
    return (patterns,) if isinstance(patterns, str) else patterns


def shipped_cards() -> list[Card]:
    """The cards that come with medseg, sorted by name."""
    return [read_card(path) for path in shipped_files("datasets")]


def load_card(name_or_path: str | Path) -> Card:
    """The shipped card of that name, or the card in that file.

    Raises:
        InputFault: there is no such card (the nearest name is told), or it cannot be used.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise InputFault(f"{path}: this data set card is not there.", code="E_CARD")
        return read_card(path)
    shipped = {path.stem: path for path in shipped_files("datasets")}
    if str(name_or_path) not in shipped:
        raise InputFault(
            f"data set card {name_or_path}: not among {', '.join(shipped)}"
            f"{nearest(str(name_or_path), list(shipped))}; a card of your own is given by its "
            "path (my_data.yaml).",
            code="E_CARD",
        )
    return read_card(shipped[str(name_or_path)])


def read_card(path: Path) -> Card:
    """The card in a file; all that is wrong with it is told at once, with lines."""
    located = read_located(_text_of(path), place=str(path))
    located_text = json.dumps(located.value, default=str)
    try:
        return Card.model_validate_json(located_text, context={"folder": str(path.parent)})
    except ValidationError as faults:
        raise all_at_once(
            sentences(faults.errors(), located, KEYS, place=str(path)),
            summary=f"{path}: the data set card cannot be used:",
            code="E_CARD",
        ) from faults


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as fault:
        raise InputFault(f"{path}: it is no UTF-8 text ({fault}).", code="E_YAML") from fault


def _refuse_folder_gaps(card: Card) -> None:
    gaps = [key for key in ("files", "channels", "labels") if getattr(card, key) is None]
    if gaps:
        raise ValueError(f"layout folder needs {', '.join(gaps)}")
    images = card.files.images if card.files else ()
    if isinstance(images, dict) and set(images) != set(card.channels or ()):
        raise ValueError(
            f"files.images has {', '.join(images)}, channels has {', '.join(card.channels or ())}; "
            "they must be the same names"
        )
