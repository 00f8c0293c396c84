"""Run by the tests in a process of its own, with nnU-Net's three folders in its environment.

`python nnunet_peer.py questions.json answers.json` lets nnunetv2 plan each question (a data set's
name, a planner and its memory) and writes its 3d_fullres configurations.
"""

import json
import sys
import warnings
from pathlib import Path

import torch
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
    DatasetFingerprintExtractor,
)
from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner
from nnunetv2.experiment_planning.experiment_planners.residual_unets import (
    residual_encoder_unet_planners,
)

PLANNERS = {
    "plain": "ExperimentPlanner",
    "resenc_m": "nnUNetPlannerResEncM",
    "resenc_l": "nnUNetPlannerResEncL",
    "resenc_xl": "nnUNetPlannerResEncXL",
}
DEFAULT_GB = {"plain": 8, "resenc_m": 8, "resenc_l": 24, "resenc_xl": 40}


def planner_of(question):
    name = PLANNERS[question["network"]]
    module = (
        default_experiment_planner
        if question["network"] == "plain"
        else residual_encoder_unet_planners
    )
    memory_gb = question["memory_gb"] or DEFAULT_GB[question["network"]]
    planner = getattr(module, name)(question["dataset"], gpu_memory_target_in_gb=memory_gb)
    # Only the full resolution is compared, so the others are not worked out.
    planner.lowres_creation_threshold = 0
    full = planner.get_plans_for_configuration
    planner.get_plans_for_configuration = lambda spacing, *rest: (
        full(spacing, *rest) if len(spacing) == 3 else {}
    )
    return planner


def extract(dataset):
    extractor = DatasetFingerprintExtractor(dataset, num_processes=1)
    extractor.num_foreground_voxels_for_intensitystats = 2e6
    extractor.run()


def answer(question):
    if question.get("extract"):
        extract(question["dataset"])
    # Its memory estimate is arithmetic on layers: on the meta device they cost nothing.
    with torch.device("meta"):
        plans = planner_of(question).plan_experiment()
    return {
        **plans["configurations"]["3d_fullres"],
        "transpose_backward": plans["transpose_backward"],
        "intensities": plans["foreground_intensity_properties_per_channel"],
    }


def main():
    warnings.simplefilter("ignore")
    questions = json.loads(Path(sys.argv[1]).read_text())
    answers = [answer(question) for question in questions]
    Path(sys.argv[2]).write_text(json.dumps(answers, default=float))


if __name__ == "__main__":
    main()
