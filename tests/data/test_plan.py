"""Plans agree with nnunetv2's own, and are numbers that survive JSON."""

import importlib.util
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from medseg.data.card import load_card
from medseg.data.cases import open_listing
from medseg.data.facts import ChannelIntensities, Fingerprint
from medseg.data.fingerprint import fingerprint
from medseg.data.patch_search import PRESETS
from medseg.data.plan import Plan, plan
from medseg.fault import InputFault
from medseg.models.topology import topology

needs_nnunet = pytest.mark.skipif(
    importlib.util.find_spec("nnunetv2") is None,
    reason="nnunetv2 is not installed (pip install medseg[nnunet]); its plans cannot be compared",
)
NUMBERS = ChannelIntensities(
    percentile_00_5=-80.0,
    percentile_99_5=300.0,
    mean=90.0,
    std=45.0,
    median=88.0,
    minimum=-900.0,
    maximum=1500.0,
)


def facts(shapes, spacings_mm, *, channels=("MR",), classes=3, relative_size=1.0):
    return Fingerprint(
        channels=channels,
        classes=classes,
        cases=tuple(f"case_{n}" for n in range(len(shapes))),
        shapes=tuple(shapes),
        spacings_mm=tuple(spacings_mm),
        relative_sizes=(relative_size,) * len(shapes),
        intensities=(NUMBERS,) * len(channels),
    )


def artificial():
    """Data sets of many kinds: name -> fingerprint."""
    return {
        "hippocampus": facts([(35, 51, 35)] * 100 + [(34, 50, 38)] * 108, [(1.0, 1.0, 1.0)] * 208),
        "brain tumor": facts(
            [(140, 171, 137)] * 300 + [(133, 180, 141)] * 184,
            [(1.0, 1.0, 1.0)] * 484,
            channels=("FLAIR", "T1w", "t1gd", "T2w"),
            classes=4,
            relative_size=0.37,
        ),
        "cardiac cine": facts(
            [(216, 256, 10)] * 60 + [(256, 216, 9)] * 40 + [(232, 288, 16)] * 100,
            [(1.5625, 1.5625, 10.0)] * 120 + [(1.4, 1.4, 5.0)] * 80,
            classes=4,
        ),
        "prostate": facts(
            [(320, 320, 20)] * 32, [(0.625, 0.625, 3.6)] * 32, channels=("T2", "ADC"), classes=3
        ),
        "abdomen CT": facts(
            [(512, 512, 100)] * 20 + [(512, 512, 147)] * 10,
            [(0.76, 0.76, 3.0)] * 15 + [(0.8, 0.8, 5.0)] * 15,
            channels=("CT",),
            classes=14,
        ),
        "thin CT": facts(
            [(512, 512, 500)] * 40, [(0.78, 0.78, 1.0)] * 40, channels=("ct",), classes=105
        ),
        "coarse axis first": facts(
            [(24, 384, 384)] * 12, [(4.0, 0.5, 0.5)] * 6 + [(1.2, 0.5, 0.5)] * 6, classes=2
        ),
        "large isotropic MR": facts([(256, 320, 320)] * 700, [(0.7, 0.7, 0.7)] * 700, classes=2),
        "small and few": facts([(60, 70, 45)] * 3, [(2.0, 2.0, 2.5)] * 3, classes=2),
        "unnormalized": facts(
            [(96, 97, 98)] * 30,
            [(1.0, 1.01, 0.99)] * 30,
            channels=("noNorm", "rescale_to_0_1", "RGB_to_0_1", "zscore", "CT"),
            relative_size=0.5,
        ),
    }


def drawn(count):
    """Data sets drawn at random."""
    draw = random.Random(5)
    for number in range(count):
        shape = [draw.choice((draw.randint(8, 64), draw.randint(60, 512))) for _ in range(3)]
        spacing = [draw.choice((1.0, round(draw.uniform(0.3, 6.0), 3))) for _ in range(3)]
        cases = draw.randint(2, 40)
        yield (
            f"drawn {number}",
            facts(
                [tuple(max(6, side + draw.randint(-5, 5)) for side in shape) for _ in range(cases)],
                [tuple(mm * draw.choice((1.0, 1.0, 0.5)) for mm in spacing) for _ in range(cases)],
                classes=draw.randint(2, 20),
                channels=("T1",) * draw.randint(1, 4),
            ),
        )


def write_as_nnunet(fingerprint, root, number):
    """A raw data set that has nothing but a fingerprint; returns nnU-Net's name for it."""
    name = f"Dataset{number:03d}_Artificial"
    raw, preprocessed = root / "raw" / name, root / "preprocessed" / name
    raw.mkdir(parents=True)
    preprocessed.mkdir(parents=True)
    dataset = {
        "channel_names": {str(n): name for n, name in enumerate(fingerprint.channels)},
        "labels": {"background": 0} | {f"l{n}": n for n in range(1, fingerprint.classes)},
        "numTraining": len(fingerprint.shapes),
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        # listed here, the files are not looked for (by a pool of twelve processes)
        "dataset": {"a": {"images": ["a_0000.nii.gz"], "label": "a.nii.gz"}},
    }
    (raw / "dataset.json").write_text(json.dumps(dataset))
    facts_of_nnunet = {
        "spacings": [mm[::-1] for mm in fingerprint.spacings_mm],
        "shapes_after_crop": [shape[::-1] for shape in fingerprint.shapes],
        "median_relative_size_after_cropping": fingerprint.median_relative_size,
        "foreground_intensity_properties_per_channel": {},
    }
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(facts_of_nnunet))
    return name


def link_as_nnunet(listing, root, number):
    """The cases of a listing in nnU-Net's raw layout, as links; returns nnU-Net's name for it."""
    name = f"Dataset{number:03d}_Real"
    raw = root / "raw" / name
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    for case in listing.cases:
        (image,) = case.images
        (raw / "imagesTr" / f"{case.id}_0000.nii.gz").symlink_to(image)
        (raw / "labelsTr" / f"{case.id}.nii.gz").symlink_to(case.label)
    dataset = {
        "channel_names": {str(n): name for n, name in enumerate(listing.channels)},
        "labels": {"background": 0, **{label.name: label.value for label in listing.labels.labels}},
        "numTraining": len(listing.cases),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(dataset))
    return name


def ask_nnunet(questions, root):
    (root / "questions.json").write_text(json.dumps(questions))
    environment = {
        "nnUNet_raw": str(root / "raw"),
        "nnUNet_preprocessed": str(root / "preprocessed"),
        "nnUNet_results": str(root / "results"),
        "OMP_NUM_THREADS": "1",
        "nnUNet_n_proc_DA": "1",
        "nnUNet_def_n_proc": "1",
        "HOME": str(root),
        "PATH": os.defpath,
    }
    peer = Path(__file__).parent / "nnunet_peer.py"
    run = subprocess.run(
        [sys.executable, peer, root / "questions.json", root / "answers.json"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads((root / "answers.json").read_text())


def in_our_order(values, answer):
    """Axes i, j, k of what nnU-Net gives in its own transposed order of k, j, i."""
    untransposed = [values[axis] for axis in answer["transpose_backward"]]
    return tuple(untransposed[::-1])


def assert_same_plan(ours, answer):
    theirs = answer["architecture"]["arch_kwargs"]
    blocks = theirs.get("n_blocks_per_stage") or theirs["n_conv_per_stage"]
    assert ours.spacing_mm == in_our_order(answer["spacing"], answer)
    assert ours.median_shape == in_our_order(answer["median_image_size_in_voxels"], answer)
    assert ours.patch_size == in_our_order(answer["patch_size"], answer)
    assert ours.batch_size == answer["batch_size"]
    assert ours.network.features == tuple(theirs["features_per_stage"])
    assert ours.network.strides == tuple(in_our_order(s, answer) for s in theirs["strides"])
    assert ours.network.kernel_sizes == tuple(
        in_our_order(size, answer) for size in theirs["kernel_sizes"]
    )
    assert ours.network.blocks == tuple(blocks)
    assert ours.network.decoder_blocks == tuple(theirs["n_conv_per_stage_decoder"])
    assert [kind_for_nnunet(channel) for channel in ours.normalisation] == list(
        zip(answer["normalization_schemes"], answer["use_mask_for_norm"], strict=True)
    )


def kind_for_nnunet(normalisation):
    if normalisation["kind"] == "range":
        given = normalisation["upper"] == 255.0
        return ("RGBTo01Normalization" if given else "RescaleTo01Normalization", False)
    names = {
        "ct": ("CTNormalization", False),
        "none": ("NoNormalization", False),
        "zscore": ("ZScoreNormalization", False),
        "zscore_nonzero": ("ZScoreNormalization", True),
    }
    return names[normalisation["kind"]]


@needs_nnunet
def test_plans_of_artificial_data_sets_agree_with_nnunetv2(tmp_path):
    sets = {**artificial(), **dict(drawn(14))}
    presets = [("plain", None), ("resenc_m", None), ("resenc_l", None)]
    questions = []
    for number, measured in enumerate(sets.values(), start=1):
        name = write_as_nnunet(measured, tmp_path, number)
        questions += [
            {"dataset": name, "network": network, "memory_gb": gb} for network, gb in presets
        ]
    answers = iter(ask_nnunet(questions, tmp_path))
    compared = 0
    for measured in sets.values():
        for network, gb in presets:
            assert_same_plan(plan(measured, network=network, memory_gb=gb), next(answers))
            compared += 1
    assert compared == len(questions) == 72


@needs_nnunet
def test_the_plan_of_the_hippocampus_set_agrees_with_nnunetv2(shared_data, tmp_path):
    listing = open_listing(load_card("hippocampus"), shared_data / "hippocampus")
    name = link_as_nnunet(listing, tmp_path, 4)
    networks = ("plain", "resenc_m", "resenc_l")
    questions = [
        {"dataset": name, "network": network, "memory_gb": None, "extract": network == "plain"}
        for network in networks
    ]
    answers = ask_nnunet(questions, tmp_path)
    measured = fingerprint(listing)
    for network, answer in zip(networks, answers, strict=True):
        assert_same_plan(plan(measured, network=network), answer)
    theirs, (ours,) = answers[0]["intensities"]["0"], measured.intensities
    for name in ("percentile_00_5", "percentile_99_5", "mean", "std", "median"):
        assert getattr(ours, name) == pytest.approx(theirs[name], rel=0.01), name
    assert (ours.minimum, ours.maximum) == pytest.approx((theirs["min"], theirs["max"]))


def test_a_plan_survives_json():
    made = plan(artificial()["abdomen CT"], network="resenc_m")
    assert Plan.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_ct_is_clipped_to_the_foreground_percentiles_of_the_data_set():
    (channel,) = plan(artificial()["abdomen CT"]).normalisation
    assert channel == {"kind": "ct", "lower": -80.0, "upper": 300.0, "mean": 90.0, "std": 45.0}


def test_a_patch_fits_the_memory_and_its_topology():
    fingerprint = artificial()["brain tumor"]
    sizes = []
    for gb in (4.0, 8.0, 16.0, 40.0):
        made = plan(fingerprint, memory_gb=gb)
        form = topology(made.patch_size, made.spacing_mm)
        assert form.strides == made.network.strides
        used = PRESETS["plain"].elements(made.patch_size, form, out_channels=4)
        assert used <= PRESETS["plain"].reference_elements * gb / 8
        sizes.append(made.patch_size[0] * made.patch_size[1] * made.patch_size[2])
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_a_spacing_that_is_given_replaces_the_rule():
    made = plan(artificial()["hippocampus"], spacing_mm=(2.0, 2.0, 2.0))
    assert made.spacing_mm == (2.0, 2.0, 2.0)
    assert made.median_shape == (17.0, 25.0, 19.0)


def test_too_little_memory_is_refused_with_a_way_out():
    with pytest.raises(InputFault, match="no patch that a UNet can halve fits") as fault:
        plan(artificial()["hippocampus"], memory_gb=1e-6)
    assert fault.value.code == "E_PLAN"


def test_a_single_slice_is_planned_but_volumes_too_small_to_halve_are_refused():
    thin = facts([(200, 220, 1)] * 9, [(1.0, 1.0, 5.0)] * 9)
    assert plan(thin).patch_size[2] == 1
    with pytest.raises(InputFault, match="median shape 6 x 6 x 6"):
        plan(facts([(6, 6, 6)] * 9, [(1.0, 1.0, 1.0)] * 9))


def test_planning_imports_no_torch():
    code = "import sys, medseg.data.plan; print({'torch', 'scipy', 'nibabel'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "set()", run.stderr
