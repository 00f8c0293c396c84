"""What D-Former's section tells before a network is built."""

import subprocess
import sys

import pytest

from medseg.fault import InputFault
from medseg.models.shape import ShapePolicy
from medseg.recipe.networks.d_former import DFormerSection

SPACING = (1.0, 1.0, 1.0)


def test_any_patch_is_taken() -> None:
    assert DFormerSection(name="d_former").shape_policy((7, 100, 33), SPACING) == ShapePolicy()


def test_a_patch_that_the_reference_cannot_cut_is_refused_with_one_that_it_can() -> None:
    section = DFormerSection(name="d_former", faithful=True)
    assert "64x128x128" in (
        section.shape_policy((60, 128, 128), SPACING).refuses((60, 128, 128)) or ""
    )
    with pytest.raises(InputFault, match="nearest that fits is 64x256x256") as fault:
        section.shape_policy((64, 224, 224), SPACING)
    assert fault.value.code == "E_PATCH"
    assert section.shape_policy((64, 256, 256), SPACING).refuses((64, 256, 256)) is None


def test_heads_that_do_not_divide_their_channels_are_told() -> None:
    assert list(DFormerSection(name="d_former").contradictions()) == []
    (found,) = DFormerSection(name="d_former", heads=(3, 6, 12, 25)).contradictions()
    assert found.path == ("heads", "3")
    assert "25 heads do not divide the 768 channels" in found.rule


def test_the_section_needs_no_torch() -> None:
    words = "import sys, medseg.recipe.networks.d_former; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], check=False).returncode == 0
