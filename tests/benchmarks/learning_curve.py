"""Validation Dice against minutes of training, of finished or running runs.

Run: python tests/benchmarks/learning_curve.py RUN_FOLDER... [-o curve.png]

A run folder is what `medseg train` leaves (`runs/<recipe>/fold_<n>`). The minutes are those of the
run's own clock: training, validation and checkpoints, without the preparation of the cases.
"""

import argparse
import csv
from pathlib import Path

from matplotlib.figure import Figure

REACHED = (0.80, 0.85, 0.86, 0.87, 0.88, 0.89)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    curves = {run.parent.name: _curve(run / "log.csv") for run in args.runs}
    print("minutes to Dice     " + "".join(f"{dice:>8.2f}" for dice in REACHED) + "    best")
    for name, curve in curves.items():
        print(f"{name:<20}" + "".join(f"{_minutes(curve, dice):>8}" for dice in REACHED), end="")
        print(f"{max(dice for _, dice in curve):>8.4f}")
    if args.output:
        _draw(curves, args.output)


def _curve(log: Path) -> list[tuple[float, float]]:
    """Minutes and mean Dice of each validation."""
    with log.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["dice"]]
    return [(float(row["seconds"]) / 60, float(row["dice"])) for row in rows]


def _minutes(curve: list[tuple[float, float]], wanted: float) -> str:
    found = [minutes for minutes, dice in curve if dice >= wanted]
    return f"{found[0]:.1f}" if found else "-"


def _draw(curves: dict[str, list[tuple[float, float]]], path: Path) -> None:
    figure = Figure(figsize=(6.4, 3.2), dpi=130, layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        minutes, dice = zip(*curve, strict=True)
        axes.plot(minutes, dice, marker="o", markersize=3, label=name)
    axes.set(
        xlabel="minutes of training", ylabel="validation Dice", ylim=(0.78, 0.9), xlim=(0, None)
    )
    axes.grid(visible=True, alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path)


if __name__ == "__main__":
    main()
