"""Lightning's Trainer as we use it: devices, precision and processes; all else is ours."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning.accelerators import CUDAAccelerator, MPSAccelerator
from pytorch_lightning.utilities.exceptions import SIGTERMException

from medseg.fault import InputFault
from medseg.nn.memory import reused_memory

Precision = Literal["32-true", "bf16-mixed", "bf16-true"]


def is_first_rank() -> bool:
    """Whether this process is the one that writes; Lightning or Slurm starts the other ranks."""
    slurm = _slurm()
    if slurm is not None:
        return slurm.global_rank() == 0
    environment = LightningEnvironment()
    return environment.node_rank() == 0 and environment.local_rank() == 0


def refuse_absent_gpus(accelerator: str, devices: int) -> None:
    """Raise InputFault (E_DEVICE) where GPUs are asked for that torch does not see."""
    if accelerator != "gpu":
        return
    count = max(CUDAAccelerator.auto_device_count(), int(MPSAccelerator.is_available()))
    if count < devices:
        raise InputFault(
            f"trainer.accelerator=gpu with {devices} devices, and torch sees {count} GPUs here; "
            "write trainer.accelerator=auto or cpu, or install the torch of the GPU's driver.",
            code="E_DEVICE",
        )


def run_trainer(
    module: pl.LightningModule,
    data: pl.LightningDataModule,
    conductor: pl.Callback,
    *,
    folder: Path,
    precision: Precision,
    accelerator: str,
    devices: int,
    strategy: str,
) -> None:
    """Run the steps of `data` through `module`, as one epoch of Lightning's.

    Raises:
        InputFault: a process that reads ahead died (E_WORKER).
        KeyboardInterrupt: stopped by SIGINT or SIGTERM, which Lightning makes an exit of.
    """
    with _quiet_lightning():
        trainer = pl.Trainer(
            accelerator=accelerator,
            devices=devices,
            strategy=strategy,
            precision=precision,
            plugins=_slurm(),
            max_epochs=1,
            callbacks=[conductor],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            default_root_dir=folder,
        )
        try:
            with reused_memory():
                trainer.fit(module, datamodule=data)
        except SystemExit as stop:
            if isinstance(stop, SIGTERMException) or isinstance(
                stop.__context__, KeyboardInterrupt
            ):
                raise KeyboardInterrupt from stop
            raise
        except RuntimeError as error:
            if "DataLoader worker" in str(error):
                raise _worker_fault(error) from error
            raise


def _slurm() -> SLURMEnvironment | None:
    """Slurm's ranks, where it runs us; Lightning writes no checkpoints of its own at a requeue."""
    return SLURMEnvironment(auto_requeue=False) if SLURMEnvironment.detect() else None


def _worker_fault(error: RuntimeError) -> InputFault:
    return InputFault(
        f"a process that reads training samples died ({str(error).splitlines()[0]}); most often "
        "memory ran out. Continue with --resume and fewer trainer.workers.",
        code="E_WORKER",
    )


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Lightning's advice and notices are for its own users; ours see progress events."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning.pytorch")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*",
            ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
            ".*GPU available but not used.*",
            ".*defined a `validation_step`.*",
        ):
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
