"""The drawings of the report as inline SVG: planes of a case, and scores along a line."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from medseg.evaluation.slices import Outline, Plane
from medseg.volume import LabelTable

NICE_LENGTHS_MM = (1, 2, 5, 10, 20, 50, 100, 200, 500)
SCALE_SHARE = 0.3
STRIP_WIDTH, STRIP_HEIGHT = 320.0, 26.0


def plane_figure(plane: Plane, table: LabelTable, *, key: str) -> str:
    """Truth and prediction of a plane side by side; the gray values stand in the page once."""
    panels = (
        ("Truth", _underlay(plane, key), _paths(plane.truth, table)),
        (
            "Prediction",
            f'<use href="#{key}"/>' if plane.picture else "",
            _paths(plane.prediction, table) + f'<g class="ghost">{_paths(plane.truth, table)}</g>',
        ),
    )
    drawn = "".join(_panel(plane, name, under + paths) for name, under, paths in panels)
    caption = f"{plane.name.capitalize()}, {plane.position}"
    return f'<figure><div class="pair">{drawn}</div><figcaption>{caption}</figcaption></figure>'


def strip(
    values: Sequence[float],
    names: Sequence[str],
    *,
    mean: float,
    interval: tuple[float, float],
    color: str,
) -> str:
    """A dot a case from 0 to 1, and over them the mean with its interval."""
    defined = [
        (name, value) for name, value in zip(names, values, strict=True) if np.isfinite(value)
    ]
    middle = STRIP_HEIGHT / 2
    dots = "".join(
        f'<circle cx="{_x(value):.1f}" cy="{middle + _shift(place):.1f}" r="2.6">'
        f"<title>{escape(name)}: {value:.3f}</title></circle>"
        for place, (name, value) in enumerate(defined)
    )
    ticks = "".join(
        f'<line class="tick" x1="{_x(t):.1f}" x2="{_x(t):.1f}" y1="0" y2="{STRIP_HEIGHT:g}"/>'
        for t in (0, 0.25, 0.5, 0.75, 1)
    )
    bar = ""
    if np.isfinite(interval).all():
        bar = (
            f'<line class="interval" x1="{_x(interval[0]):.1f}" x2="{_x(interval[1]):.1f}" '
            f'y1="{middle:g}" y2="{middle:g}"/>'
        )
    center = ""
    if np.isfinite(mean):
        center = (
            f'<line class="center" x1="{_x(mean):.1f}" x2="{_x(mean):.1f}" y1="{middle - 9:g}" '
            f'y2="{middle + 9:g}"/>'
        )
    return (
        f'<svg class="strip" viewBox="0 0 {STRIP_WIDTH:g} {STRIP_HEIGHT:g}" role="img" '
        f'aria-label="Dice of every case"><g>{ticks}</g>'
        f'<g fill="{color}" fill-opacity=".45">{dots}</g>{bar}{center}</svg>'
    )


def hexadecimal(color: tuple[int, int, int]) -> str:
    """A color as in CSS."""
    red, green, blue = color
    return f"#{red:02x}{green:02x}{blue:02x}"


def _panel(plane: Plane, name: str, drawn: str) -> str:
    side = plane.side_mm
    letter = f'font-size="{side * 0.055:.3g}"'
    return (
        f'<div class="panel"><svg viewBox="0 0 {side:.4g} {side:.4g}" role="img" '
        f'aria-label="{name}, {plane.name}">{drawn}'
        f'<text x="{side * 0.02:.3g}" y="{side / 2:.3g}" {letter}>{plane.left}</text>'
        f'<text x="{side / 2:.3g}" y="{side * 0.065:.3g}" text-anchor="middle" {letter}>'
        f"{plane.top}</text>{_scale_bar(side)}</svg><span>{name}</span></div>"
    )


def _underlay(plane: Plane, key: str) -> str:
    if not plane.picture:
        return ""
    x, y, width, height = plane.frame_mm
    return (
        f'<image id="{key}" x="{x:.4g}" y="{y:.4g}" width="{width:.4g}" height="{height:.4g}" '
        f'preserveAspectRatio="none" href="data:image/png;base64,{plane.picture}"/>'
    )


def _paths(outlines: Sequence[Outline], table: LabelTable) -> str:
    return "".join(
        f'<path d="{outline.path}" fill="{color}" stroke="{color}"/>'
        for outline in outlines
        for color in (hexadecimal(table[outline.value].color),)
    )


def _scale_bar(side_mm: float) -> str:
    fitting = [length for length in NICE_LENGTHS_MM if length <= side_mm * SCALE_SHARE]
    length = fitting[-1] if fitting else side_mm * SCALE_SHARE
    right, bottom = side_mm * 0.97, side_mm * 0.95
    return (
        f'<line class="scale" x1="{right - length:.4g}" x2="{right:.4g}" y1="{bottom:.4g}" '
        f'y2="{bottom:.4g}"/><text x="{right:.4g}" y="{bottom - side_mm * 0.02:.4g}" '
        f'text-anchor="end" font-size="{side_mm * 0.045:.3g}">{length:g} mm</text>'
    )


def _x(value: float) -> float:
    return 6 + min(max(value, 0.0), 1.0) * (STRIP_WIDTH - 12)


def _shift(place: int) -> float:
    # Neighbors in the list of cases stand at different heights, so that equal scores show.
    return ((place * 0.618034) % 1 - 0.5) * (STRIP_HEIGHT - 9)


def colors_of(structures: Sequence, headline: str) -> Mapping[str, str]:
    """The color of each structure's row; the headline's own."""
    return {headline: "var(--accent)", **{s.name: hexadecimal(s.color) for s in structures}}
