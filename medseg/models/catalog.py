"""The networks a recipe can name, with their papers and what each is held to."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """What a network with its defaults weighs and costs at one input; a test measures both.

    `gmacs` counts 10^9 multiply-adds of convolutions and matrix products of one forward pass.
    """

    in_channels: int
    out_channels: int
    patch_size: tuple[int, int, int]
    parameters: int
    gmacs: float


@dataclass(frozen=True)
class ModelEntry:
    """One network: `source` is whose code it is, `parity` what its tests compare it with."""

    name: str
    title: str
    summary: str
    paper: str
    source: str
    parity: str
    example: Example


CATALOG: tuple[ModelEntry, ...] = (
    ModelEntry(
        name="swin_unetr",
        title="Swin UNETR",
        summary="shifted-window transformer encoder, convolutional decoder; V2 with `v2: true`",
        paper="Hatamizadeh et al. 2022, arXiv 2201.01266",
        source="own",
        parity="outputs and gradients of monai.networks.nets.SwinUNETR with its weights",
        example=Example(4, 3, (128, 128, 128), parameters=62_191_941, gmacs=765.3),
    ),
    ModelEntry(
        name="nnunet_plain",
        title="nnU-Net, plain U-Net",
        summary="the U-Net that nnU-Net plans from patch and spacing",
        paper="Isensee et al. 2021, Nature Methods 18, arXiv 1809.10486",
        source="dynamic-network-architectures",
        parity="the topology nnunetv2 plans",
        example=Example(1, 14, (128, 128, 128), parameters=31_205_254, gmacs=478.0),
    ),
    ModelEntry(
        name="nnunet_resenc",
        title="nnU-Net, residual encoder",
        summary="nnU-Net's residual-encoder U-Net, presets M and L",
        paper="Isensee et al. 2024, MICCAI, arXiv 2404.09556",
        source="dynamic-network-architectures",
        parity="the topology nnunetv2 plans",
        example=Example(1, 14, (128, 128, 128), parameters=102_359_430, gmacs=718.2),
    ),
    ModelEntry(
        name="mednext",
        title="MedNeXt",
        summary="ConvNeXt blocks in a U-Net, sizes S, B, M and L, kernels of 3 or 5",
        paper="Roy et al. 2023, MICCAI, arXiv 2303.09975",
        source="MONAI",
        parity="the library's own network",
        example=Example(1, 14, (128, 128, 128), parameters=5_564_806, gmacs=128.4),
    ),
    ModelEntry(
        name="segresnet",
        title="SegResNet",
        summary="residual encoder and a light decoder, without the autoencoder branch",
        paper="Myronenko 2018, BrainLes, arXiv 1810.11654",
        source="MONAI",
        parity="the library's own network",
        example=Example(4, 3, (128, 128, 128), parameters=4_702_227, gmacs=148.0),
    ),
    ModelEntry(
        name="xlstm_unet",
        title="xLSTM-UNet",
        summary="nnU-Net's residual U-Net with Vision-LSTM in encoder or bottleneck; 2D and 3D",
        paper="Chen et al. 2024, arXiv 2407.01530",
        source="own",
        parity="outputs of the authors' networks, blocks and cell with their weights",
        example=Example(4, 4, (128, 128, 128), parameters=44_311_404, gmacs=1174.6),
    ),
    ModelEntry(
        name="d_former",
        title="D-Former",
        summary="transformer of near and dilated far groups, positions read off the tokens",
        paper="Wu et al. 2022, Neural Computing and Applications, arXiv 2201.00462",
        source="own",
        parity="outputs of the public code's backbone, blocks and head with their weights",
        example=Example(1, 14, (64, 128, 128), parameters=45_832_512, gmacs=52.73),
    ),
    ModelEntry(
        name="u_mamba",
        title="U-Mamba",
        summary="nnU-Net's residual U-Net with Mamba in encoder or bottleneck; 2D and 3D",
        paper="Ma, Li and Wang 2024, arXiv 2401.04722",
        source="own",
        parity="the authors' parameter counts; the scan by the plain recurrence",
        example=Example(4, 4, (128, 128, 128), parameters=43_398_292, gmacs=1003.5),
    ),
    ModelEntry(
        name="seg_mamba",
        title="SegMamba",
        summary="Mamba over voxels in three orders, convolutional decoder",
        paper="Xing et al. 2024, MICCAI, arXiv 2401.13560",
        source="own",
        parity="the authors' parameter counts; the scan by the plain recurrence",
        example=Example(4, 4, (128, 128, 128), parameters=67_416_196, gmacs=1471.9),
    ),
    ModelEntry(
        name="para_trans_cnn",
        title="ParaTransCNN",
        summary="ResNet and transformer pyramids side by side; 2D by slices, a 3D form of ours",
        paper="Sun et al. 2024, arXiv 2401.15307",
        source="own",
        parity="outputs of the authors' 2D network with its weights",
        example=Example(3, 9, (224, 224, 1), parameters=245_468_937, gmacs=246.9),
    ),
    ModelEntry(
        name="trans_dae",
        title="TransDAE",
        summary="attention in space and across channels in a U; 2D by slices, a 3D form of ours",
        paper="Azad et al. 2024, arXiv 2409.02018",
        source="own, a reconstruction",
        parity="outputs of DAE-Former's attentions and block with its weights",
        example=Example(1, 9, (224, 224, 1), parameters=24_456_635, gmacs=5.791),
    ),
    ModelEntry(
        name="swtr_unet",
        title="SWTR-Unet",
        summary="ResNet-50, shifted windows, U-Net decoder; 2D by slices, a 3D form of ours",
        paper="Hille et al. 2023, arXiv 2201.10981",
        source="own, a reconstruction",
        parity="logits and weights of torchvision's ResNet-50 in its first part",
        example=Example(1, 3, (256, 256, 1), parameters=101_799_875, gmacs=36.54),
    ),
)
