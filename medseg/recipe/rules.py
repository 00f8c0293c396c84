"""The rules between settings: what each of them allows alone, but not together."""

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from medseg.data.card import Card, load_card
from medseg.fault import InputFault
from medseg.recipe.contradiction import Contradiction
from medseg.recipe.fitting import DiceCESection, RegionsSection, SGDSection, TrainerSection
from medseg.recipe.networks.network import NetworkSection
from medseg.recipe.parts import (
    AugmentSection,
    DataSection,
    NormaliseSection,
    PlanSection,
    PredictSection,
)
from medseg.recipe.postprocess import RuleSection

Found = Iterator[Contradiction]


def contradictions(sections: Mapping[str, Any]) -> list[Contradiction]:
    """All contradictions between the sections that are there; each is sound by itself."""
    return [
        found
        for needed, rule in RULES
        if all(name in sections for name in needed)
        for found in rule(*(sections[name] for name in needed))
    ]


def _card(data: DataSection) -> Found:
    try:
        card = load_card(data.card)
    except InputFault as fault:
        yield Contradiction(("data", "card"), str(fault))
        return
    if data.fold == "fixed" and card.split is None:
        yield Contradiction(
            ("data", "fold"),
            f"the card {card.name} has no fixed split; give a number from 0 to {data.folds - 1}",
            because=(("data", "card"),),
        )


def _fold(data: DataSection) -> Found:
    if data.splits is not None:
        if not isinstance(data.fold, int):
            yield Contradiction(
                ("data", "fold"),
                f"it is {data.fold}, and data.splits names folds; give the number of one, or leave "
                "data.splits out",
                because=(("data", "splits"),),
            )
        return
    if isinstance(data.fold, int) and data.fold >= data.folds:
        yield Contradiction(
            ("data", "fold"),
            f"it is {data.fold}, but with {data.folds} folds it is 0 to {data.folds - 1}",
            because=(("data", "folds"),),
        )


def _regions(data: DataSection, loss: DiceCESection | RegionsSection) -> Found:
    card = _readable(data.card)
    if loss.name == "regions" and card and card.layout != "nnunet" and not card.regions:
        yield Contradiction(
            ("loss", "name"),
            f"regions are asked for, but the card {card.name} states none; write "
            "`loss: {name: dice_ce}`, or a card with regions",
            because=(("data", "card"), ("loss",)),
        )


def _readable(card: str) -> Card | None:
    try:
        return load_card(card)
    except InputFault:
        return None


def _postprocess(data: DataSection, postprocess: tuple[RuleSection, ...]) -> Found:
    card = _readable(data.card)
    if card is None or card.labels is None:
        return
    known = card.labels.names
    for place, rule in enumerate(postprocess):
        for name in rule.labels:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
                yield Contradiction(
                    ("postprocess", str(place), "labels"),
                    f"{name} is no label of the card {card.name}; {hint}",
                    because=(("data", "card"),),
                )


def _loss_weights(loss: DiceCESection | RegionsSection) -> Found:
    if loss.dice_weight == loss.ce_weight == 0:
        yield Contradiction(
            ("loss", "dice_weight"),
            "it is 0 and so is ce_weight, so nothing would be learned; give one a weight",
            because=(("loss", "ce_weight"),),
        )


def _normalise(plan: PlanSection) -> Found:
    asked = plan.normalise
    if not isinstance(asked, NormaliseSection):
        return
    if asked.kind == "range":
        lacking = [name for name in ("lower", "upper") if getattr(asked, name) is None]
        if lacking:
            yield Contradiction(
                ("plan", "normalise"), f"range needs {' and '.join(lacking)} as well"
            )
    if asked.lower is not None and asked.upper is not None and asked.lower >= asked.upper:
        yield Contradiction(
            ("plan", "normalise", "lower"),
            f"it is {asked.lower:g}, not below upper, which is {asked.upper:g}",
            because=(("plan", "normalise", "upper"),),
        )


def _patch(plan: PlanSection, model: Any) -> Found:
    patch, spacing = plan.patch_size, plan.spacing_mm
    if isinstance(patch, str):
        return
    # Where the spacing is planned, it is taken as even: that decides how deep a UNet goes.
    even = (1.0, 1.0, 1.0) if isinstance(spacing, str) else spacing
    try:
        refusal = model.shape_policy(patch, even).refuses(patch)
    except InputFault as fault:
        refusal = str(fault)
    if refusal:
        yield Contradiction(
            ("plan", "patch_size"),
            f"{model.name}: {refusal}",
            because=(("model",), ("model", "name"), ("model", "stages"), ("plan", "spacing_mm")),
        )


def _network(model: NetworkSection) -> Found:
    for found in model.contradictions():
        because = tuple(("model", *path) for path in found.because)
        yield Contradiction(("model", *found.path), found.rule, because)


def _nesterov(optimizer: Any) -> Found:
    if isinstance(optimizer, SGDSection) and optimizer.nesterov and optimizer.momentum == 0:
        yield Contradiction(
            ("optimizer", "momentum"),
            "it is 0, and nesterov needs a momentum; write `nesterov: false`",
            because=(("optimizer", "nesterov"),),
        )


def _mirrors(augment: AugmentSection, predict: PredictSection) -> Found:
    never = sorted(set(predict.mirror_axes) - set(augment.flip_axes))
    if never:
        yield Contradiction(
            ("predict", "mirror_axes"),
            f"training never mirrors axis {', '.join(map(str, never))} (augment.flip_axes is "
            f"{list(augment.flip_axes)}), so the network does not know such images; leave it out",
            because=(("augment", "flip_axes"),),
        )


def _mirrored_regions(
    data: DataSection, loss: DiceCESection | RegionsSection, predict: PredictSection
) -> Found:
    card = _readable(data.card)
    if loss.name != "regions" or 0 not in predict.mirror_axes or not card or not card.labels:
        return
    try:
        card.target(regions=bool(card.regions)).mirrored_channels()
    except InputFault as fault:
        yield Contradiction(
            ("predict", "mirror_axes"), f"card {card.name}: {fault}", because=(("data", "card"),)
        )


def _devices(trainer: TrainerSection) -> Found:
    if trainer.strategy == "fsdp":
        yield Contradiction(
            ("trainer", "strategy"),
            "fsdp is not supported: checkpoints and gradient clipping are of whole networks; "
            "write ddp",
        )


RULES: tuple[tuple[tuple[str, ...], Callable[..., Found]], ...] = (
    (("data",), _card),
    (("data",), _fold),
    (("data", "loss"), _regions),
    (("data", "postprocess"), _postprocess),
    (("loss",), _loss_weights),
    (("plan",), _normalise),
    (("plan", "model"), _patch),
    (("model",), _network),
    (("optimizer",), _nesterov),
    (("augment", "predict"), _mirrors),
    (("data", "loss", "predict"), _mirrored_regions),
    (("trainer",), _devices),
)
