"""Validation within a run: the whole cases, shared out between the ranks, and a picture of one."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor

from medseg.progress import Listener, Progress
from medseg.training.module import SegmentationModule
from medseg.training.picture import write_picture
from medseg.training.validation import Infer, decoded, dice_of_cases, evaluating


class Examiner:
    """Scores the network of a run as it stands, in the precision it trains in.

    Args:
        infer: logits (out, i, j, k) of a network and a whole image (c, i, j, k).
        spacing_mm: of the network's grid, for the pictures.
        listener: hears of each case.
    """

    def __init__(
        self, *, infer: Infer, spacing_mm: tuple[float, float, float], listener: Listener
    ) -> None:
        self._infer = infer
        self._spacing_mm = spacing_mm
        self._listener = listener

    def has_cases(self, trainer: pl.Trainer) -> bool:
        """Whether any case was held out."""
        return len(_whole_cases(trainer)) > 0

    def score(self, trainer: pl.Trainer, module: SegmentationModule) -> Float[Tensor, "names"]:
        """Mean Dice of each foreground name over all cases."""
        with trainer.precision_plugin.forward_context():
            rows = dice_of_cases(
                module.model,
                self._cases(trainer, module),
                target=module.target,
                infer=self._infer,
            )
        total = torch.cat([rows.sum(0), torch.tensor([float(len(rows))])])
        total = over_ranks(trainer, total, how="sum")
        return total[:-1] / total[-1]

    def draw(self, trainer: pl.Trainer, module: SegmentationModule, path: Path, step: int) -> None:
        """Write a picture of the first case: truth and prediction."""
        case = _on_device(_whole_cases(trainer)[0], trainer, module)
        with evaluating(module.model), trainer.precision_plugin.forward_context():
            prediction = decoded(self._infer(module.model, case["image"]), module.target)
        write_picture(
            path,
            image=case["image"].float().cpu().numpy(),
            truth=module.target.decode(case["target"].cpu().numpy()),
            prediction=module.target.decode(prediction.cpu().numpy()),
            target=module.target,
            title=f"{case['case']}, step {step}",
            spacing_mm=self._spacing_mm,
        )

    def _cases(self, trainer: pl.Trainer, module: SegmentationModule) -> Iterator[dict[str, Any]]:
        """This rank's cases, one at a time."""
        cases = _whole_cases(trainer)
        mine = range(trainer.global_rank, len(cases), trainer.world_size)
        for done, place in enumerate(mine, start=1):
            yield _on_device(cases[place], trainer, module)
            if trainer.is_global_zero:
                self._listener(Progress("validation", done, len(mine)))


def over_ranks(trainer: pl.Trainer, values: Tensor, *, how: str) -> Tensor:
    """The `sum` or `mean` of `values` over all processes, on the CPU."""
    if trainer.world_size == 1:
        return values
    reduced = trainer.strategy.reduce(values.to(trainer.strategy.root_device), reduce_op=how)
    assert isinstance(reduced, Tensor)
    return reduced.cpu()


def _whole_cases(trainer: pl.Trainer) -> Sequence[Mapping[str, Any]]:
    return trainer.datamodule.validation_cases()  # type: ignore[attr-defined]


def _on_device(
    case: Mapping[str, Any], trainer: pl.Trainer, module: SegmentationModule
) -> dict[str, Any]:
    image = trainer.precision_plugin.convert_input(case["image"].to(module.device))
    return {"image": image, "target": case["target"].to(module.device), "case": case["case"]}
