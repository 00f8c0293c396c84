"""Arrays with their place in the patient, and what label values mean. numpy only."""

from medseg.volume.grid import Grid, shown
from medseg.volume.labels import Label, LabelTable
from medseg.volume.target import Region, Target
from medseg.volume.task import Task
from medseg.volume.volume import LabelVolume, Volume

__all__ = [
    "Grid",
    "Label",
    "LabelTable",
    "LabelVolume",
    "Region",
    "Target",
    "Task",
    "Volume",
    "shown",
]
