"""What nnU-Net's files say, told as medseg's; and what medseg has no equal for."""

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from medseg.bundle.imported.nnunet import import_nnunet
from medseg.bundle.imported.nnunet_folder import available_folds, found_model
from medseg.bundle.imported.nnunet_plan import plan_of
from medseg.bundle.manifest import MANIFEST
from medseg.fault import InputFault
from medseg.models.planned_unet import load_nnunet_weights, planned_unet
from medseg.nn.kernels import choose_kernels
from medseg.preprocess.record import Preprocessing
from medseg.volume import Task
from tests.bundle.nnunet_peer import Peer, dataset_of, plans_of

PEER = Peer()
OLD = {
    "UNet_base_num_features": 8,
    "unet_max_num_features": 20,
    "n_conv_per_stage_encoder": [2, 2, 3],
    "n_conv_per_stage_decoder": [2, 1],
    "num_pool_per_axis": [2, 2, 2],
    "pool_op_kernel_sizes": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "conv_kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
}


def files(peer: Peer = PEER) -> tuple[dict[str, Any], dict[str, Any]]:
    return plans_of([peer]), dataset_of(peer)


def configuration(plans: dict[str, Any]) -> dict[str, Any]:
    return plans["configurations"]["3d_fullres"]


@pytest.mark.parametrize("name", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_plans_before_2_2_build_the_network_that_nnunet_builds_of_them(name: str) -> None:
    plans, dataset = files()
    old = configuration(plans)
    del old["architecture"]
    old |= {**OLD, "UNet_class_name": name}
    plan = plan_of(plans, dataset, "3d_fullres")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = PlansManager(copy.deepcopy(plans)).get_configuration("3d_fullres")
        network = get_network_from_plans(
            theirs.network_arch_class_name.replace("residual_unet", "unet"),
            theirs.network_arch_init_kwargs,
            theirs.network_arch_init_kwargs_req_import,
            1,
            4,
            deep_supervision=False,
        ).eval()
    section = plan.model_section(batch_norm=False)
    ours = planned_unet(
        architecture=section["architecture"],
        arguments=section["arguments"],
        in_channels=1,
        out_channels=4,
    ).eval()
    load_nnunet_weights(ours, network.state_dict())
    x = torch.randn(1, 1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(x)
        torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-5)
        choose_kernels(ours, "reference")
        assert torch.equal(ours(x), expected)


def test_a_configuration_inherits_what_it_does_not_say() -> None:
    plans, dataset = files()
    plans["configurations"]["small"] = {"inherits_from": "3d_fullres", "patch_size": [8, 8, 8]}
    plan = plan_of(plans, dataset, "small")
    assert plan.task.patch_size == (8, 8, 8)
    assert plan.task.spacing_mm == (1.5, 1.0, 1.0)
    plans["configurations"]["3d_fullres"]["inherits_from"] = "small"
    with pytest.raises(InputFault, match="inherit from each other"):
        plan_of(plans, dataset, "small")
    plans["configurations"]["small"]["inherits_from"] = "gone"
    with pytest.raises(InputFault, match="no configuration gone"):
        plan_of(plans, dataset, "small")


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        ({"background": 0, "liver": 1, "tumor": 2}, None),
        ({"background": 0, "tumor": 2, "liver": 1, "ignore": 3}, None),
        ({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}, [1, 2, 3]),
        ({"background": 0, "whole": [1, 2], "second": [2], "ignore": 3}, [1, 2]),
        ({"background": 0, "edema": [1], "core": [2]}, None),
    ],
)
def test_labels_and_regions_are_those_of_nnunets_label_manager(labels: dict, order: list) -> None:
    plans, dataset = files()
    dataset |= {"labels": labels, "regions_class_order": order}
    target = plan_of(plans, dataset, "3d_fullres").task.target
    theirs = LabelManager(labels, order)
    assert target.output_channels == theirs.num_segmentation_heads
    assert list(target.labels.values) == theirs.foreground_labels
    assert target.is_regions == theirs.has_regions
    if theirs.has_regions:
        told = [one if isinstance(one, tuple) else (one,) for one in theirs.foreground_regions]
        assert [region.members for region in target.regions] == told
        assert [region.value for region in target.regions] == order
    else:
        named = {label.name: label.value for label in target.labels.labels}
        assert named.keys() == labels.keys() - {"background", "ignore"}


def test_what_a_plan_says_survives_the_bundles_json() -> None:
    peer = Peer(
        configuration="2d",
        spacing=(1.0, 0.9),
        patch=(24, 28),
        strides=((1, 1), (2, 2), (2, 2)),
        transpose=(2, 0, 1),
        channels=("T1", "T1"),
        schemes=("ZScoreNormalization", "NoNormalization"),
        masked=(True, False),
    )
    plan = plan_of(*files(peer), "2d")
    assert plan.task.channels == ("T1_0", "T1_1")
    assert plan.task.patch_size == (1, 24, 28)
    assert plan.preprocessing.spacing_mm == (None, 1.0, 0.9)
    assert plan.preprocessing.axes == (0, 2, 1)
    assert plan.model_axes((0, 1)) == (1, 2)
    told = json.loads(json.dumps(plan.preprocessing.to_json()))
    assert Preprocessing.from_json(told) == plan.preprocessing
    cascade = plan_of(*files(Peer(previous="3d_lowres")), "3d_fullres").task
    assert cascade.in_channels == 4
    assert Task.from_json(json.loads(json.dumps(cascade.to_json()))).in_channels == 4


def _set(*path: str, to: Any) -> Callable[[dict, dict], None]:
    def change(plans: dict, dataset: dict) -> None:
        within = {"plans": plans, "dataset": dataset, "3d_fullres": configuration(plans)}
        *outer, last = path
        holder = within
        for key in outer:
            holder = holder[key]
        holder[last] = to

    return change


ARGUMENTS = ("3d_fullres", "architecture", "arch_kwargs")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_set("3d_fullres", "normalization_schemes", to=["MyNorm"]), "MyNorm is not one"),
        (_set("3d_fullres", "normalization_schemes", to=[]), "normalizes 0 channels"),
        (_set("plans", "image_reader_writer", to="Tiff3DIO"), "read by Tiff3DIO"),
        (
            _set("3d_fullres", "resampling_fn_data", to="resample_torch_fornnunet"),
            "it resamples by resample_data_or_seg_to_shape, resample_torch_fornnunet",
        ),
        (_set("3d_fullres", "resampling_fn_data_kwargs", to={"order": 1}), "resamples by"),
        (_set("dataset", "labels", to={"background": 0, "a": 1, "b": 3}), r"\[0, 1, 3\]"),
        (_set("dataset", "labels", to={"background": 0, "a": "x"}), "invalid literal"),
        (_set("plans", "transpose_forward", to=[0, 0, 1]), "an order of 0, 1, 2"),
        (_set("plans", "transpose_forward", to=None), "not what nnU-Net v2 writes"),
        (_set("3d_fullres", "spacing", to=[1.0, -1.0, 1.0]), "above 0"),
        (_set("3d_fullres", "patch_size", to=[16]), "not what nnU-Net v2 writes"),
    ],
)
def test_what_medseg_has_no_equal_for_is_refused(
    change: Callable[[dict, dict], None], told: str
) -> None:
    plans, dataset = files()
    change(plans, dataset)
    with pytest.raises(InputFault, match=told):
        plan_of(plans, dataset, "3d_fullres")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_set(*ARGUMENTS, "conv_op", to="os.system"), "layer os.system"),
        (_set(*ARGUMENTS, "nonlin", to="builtins.exec"), "layer builtins.exec"),
        (_set(*ARGUMENTS, "n_stages", to=5), "do not build it"),
        (_set(*ARGUMENTS, "surprise", to=5), "do not build it"),
        (
            _set("3d_fullres", "architecture", "network_class_name", to="my.Transformer"),
            "network Transformer",
        ),
    ],
)
def test_a_network_of_somebodys_own_is_refused_and_nothing_is_imported(
    change: Callable[[dict, dict], None], told: str
) -> None:
    plans, dataset = files()
    change(plans, dataset)
    plan = plan_of(plans, dataset, "3d_fullres")
    with pytest.raises(InputFault, match=told) as caught:
        planned_unet(
            architecture=plan.architecture,
            arguments=plan.arguments,
            in_channels=1,
            out_channels=4,
        )
    assert caught.value.code == "E_PLANS"


def test_weights_of_another_network_are_refused() -> None:
    plan = plan_of(*files(), "3d_fullres")
    make = {"architecture": plan.architecture, "arguments": plan.arguments, "in_channels": 1}
    model = planned_unet(**make, out_channels=4)
    state = planned_unet(**make, out_channels=3).network.state_dict()
    with pytest.raises(InputFault, match=r"seg_layers.* for "):
        load_nnunet_weights(model, state)
    state = dict(model.network.state_dict())
    state["extra"] = torch.zeros(1)
    with pytest.raises(InputFault, match="extra"):
        load_nnunet_weights(model, state)
    state["encoder.stages.0.0.convs.0.conv.weight"] = "text"
    with pytest.raises(InputFault, match="2 weights"):
        load_nnunet_weights(model, {k: v for k, v in state.items() if k != "extra"} | {"y": 1})


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "Dataset999_Balls" / Peer().model_name
    for fold in ("10", "2", "all", "crossval"):
        (folder / f"fold_{fold}").mkdir(parents=True)
        (folder / f"fold_{fold}" / "checkpoint_final.pth").write_bytes(b"x")
    (folder / "fold_3").mkdir()
    plans, dataset = files()
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    return folder


def test_folds_are_found_by_their_numbers(model_folder: Path) -> None:
    assert available_folds(model_folder, "final") == ("2", "10", "all")
    ask = {"configuration": None, "which": "final"}
    for path in (model_folder, model_folder.parent):
        assert found_model(path, folds=(), **ask).folds == ("2", "10")
        assert found_model(path, folds=("all",), **ask).folds == ("all",)
        with pytest.raises(InputFault, match=r"fold 3 has no checkpoint_final.*; there are 2, 10"):
            found_model(path, folds=("2", "3"), **ask)
    with pytest.raises(InputFault, match="no fold has a checkpoint_best"):
        found_model(model_folder, folds=(), configuration=None, which="best")


def test_the_folder_of_a_data_set_with_several_models_asks_which(model_folder: Path) -> None:
    other = model_folder.with_name("nnUNetTrainer__nnUNetPlans__2d")
    (other / "fold_0").mkdir(parents=True)
    (other / "fold_0" / "checkpoint_final.pth").write_bytes(b"x")
    (other / "plans.json").write_text("{}")
    ask = {"folds": (), "which": "final"}
    with pytest.raises(InputFault, match=r"holds 2 models .*2d.*; choose one") as caught:
        found_model(model_folder.parent, configuration=None, **ask)
    assert caught.value.code == "E_CONFIGURATION"
    with pytest.raises(InputFault, match="3d_lowres names 0 of them"):
        found_model(model_folder.parent, configuration="3d_lowres", **ask)
    for name in ("2d", other.name):
        assert found_model(model_folder.parent, configuration=name, **ask).folder == other


def test_a_checkpoint_that_is_damaged_or_wants_code_leaves_no_bundle(model_folder: Path) -> None:
    bundle = model_folder.parent / "bundle"
    with pytest.raises(InputFault, match="checkpoint_final") as caught:
        import_nnunet(model_folder, bundle, folds=["2"])
    assert caught.value.code == "E_PICKLE"
    checkpoint = model_folder / "fold_2" / "checkpoint_final.pth"
    torch.save({"network_weights": {}, "init_args": {"device": Path("x")}}, checkpoint)
    with pytest.raises(InputFault, match="it names pathlib"):
        import_nnunet(model_folder, bundle, folds=["2"])
    torch.save({"state_dict": {}}, checkpoint)
    with pytest.raises(InputFault, match="no checkpoint of nnU-Net v2"):
        import_nnunet(model_folder, bundle, folds=["2"])
    torch.save(
        {
            "network_weights": {},
            "init_args": {"configuration": "3d_fullres", "device": torch.device("cpu")},
            "trainer_name": "nnUNetTrainer",
        },
        checkpoint,
    )
    with pytest.raises(InputFault, match="weights are not those"):
        import_nnunet(model_folder, bundle, folds=["2"])
    (model_folder / "dataset.json").write_text("[")
    with pytest.raises(InputFault, match="dataset"):
        import_nnunet(model_folder, bundle, folds=["2"])
    assert not bundle.exists()
    assert not list(model_folder.parent.glob(f"*/{MANIFEST}"))
