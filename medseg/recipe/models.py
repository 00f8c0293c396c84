"""The model section: one of the networks, told apart by its name."""

import json
from typing import Annotated, Literal, get_args

from pydantic import Field

from medseg.recipe.networks.custom import CustomSection
from medseg.recipe.networks.d_former import DFormerSection
from medseg.recipe.networks.mednext import MedNeXtSection
from medseg.recipe.networks.network import NetworkSection
from medseg.recipe.networks.nnunet import NnUNetPlainSection, NnUNetResEncSection
from medseg.recipe.networks.para_trans_cnn import ParaTransCNNSection
from medseg.recipe.networks.seg_mamba import SegMambaSection
from medseg.recipe.networks.segresnet import SegResNetSection
from medseg.recipe.networks.swin_unetr import SwinUNETRSection
from medseg.recipe.networks.swtr_unet import SWTRUNetSection
from medseg.recipe.networks.trans_dae import TransDAESection
from medseg.recipe.networks.u_mamba import UMambaSection
from medseg.recipe.networks.xlstm_unet import XLSTMUNetSection

ModelSection = Annotated[
    SwinUNETRSection
    | NnUNetPlainSection
    | NnUNetResEncSection
    | MedNeXtSection
    | SegResNetSection
    | XLSTMUNetSection
    | UMambaSection
    | SegMambaSection
    | DFormerSection
    | TransDAESection
    | SWTRUNetSection
    | ParaTransCNNSection
    | CustomSection,
    Field(discriminator="name"),
]


def section_of_network(name: str) -> type[NetworkSection]:
    """The section of the network with this name."""
    sections = get_args(get_args(ModelSection)[0])
    (section,) = (one for one in sections if one.model_fields["name"].annotation == Literal[name])
    return section


def settings_of_network(name: str) -> list[tuple[str, str, str]]:
    """Each setting of a network: its name, its default as YAML, and what it is."""
    return [
        (
            key,
            "" if about.is_required() else json.dumps(about.get_default(call_default_factory=True)),
            about.description or "",
        )
        for key, about in section_of_network(name).model_fields.items()
        if key != "name"
    ]
