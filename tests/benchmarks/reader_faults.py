"""The catalogue of NIfTI inputs, read by medseg and by its peers.

    python -m tests.benchmarks.reader_faults [--reader NAME ...] [--inputs]

Of the inputs to refuse: how many end in an error, how many give a result without a word, in
brackets how many of those are measurably wrong (other voxels, or more than half a millimeter off,
than what the file was made of), how many warn, and how many end the process, hang or exhaust the
memory. Of the inputs to read right: how many are right, wrong, or refused.

Only inputs of one file are counted, as most peers read one at a time. A peer takes no table of
labels, so a label that is none counts as given without a word, but not as wrong; nor does either
choice between two forms that contradict each other.

Each input is read in a process of its own, forked after the reader was imported, with at most
4 GiB of memory more than that and ten seconds.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from medseg.fault import InputFault
from tests.io.catalogue.case import READ, Case, told
from tests.io.catalogue.phantom import Truth
from tests.io.catalogue.readers import found_by_medseg
from tests.io.catalogue.table import CATALOGUE

Reader = Callable[[Case, tuple[Path, ...]], Truth]
LPS = np.diag([-1.0, -1, 1, 1])
ALONE = tuple(case for case in CATALOGUE.cases if case.files == 1)
MEMORY = 4 << 30
LIMIT_S = 10
HALF_MM = 0.5
FLOAT32 = 1e-6


def medseg() -> Reader:
    return found_by_medseg


def nibabel() -> Reader:
    import nibabel as nib

    def read(path: Path) -> Truth:
        image = nib.load(path)
        array = np.asanyarray(image.dataobj)
        return Truth(np.moveaxis(array, 3, 0) if array.ndim == 4 else array[None], image.affine)

    return _each(read)


def simpleitk() -> Reader:
    import SimpleITK

    def read(path: Path) -> Truth:
        image = SimpleITK.ReadImage(str(path))
        array = SimpleITK.GetArrayFromImage(image).transpose()
        if image.GetNumberOfComponentsPerPixel() == 1:
            array = np.moveaxis(array, 3, 0) if array.ndim == 4 else array[None]
        return Truth(
            array, _place_of_itk(image.GetSpacing(), image.GetOrigin(), image.GetDirection())
        )

    return _each(read)


def monai() -> Reader:
    from monai.transforms import LoadImage

    load = LoadImage(image_only=True, ensure_channel_first=True)

    def read(path: Path) -> Truth:
        image = load(str(path))
        return Truth(image.numpy(), np.asarray(image.affine))

    return _each(read)


def nnunet() -> Reader:
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    def read(case: Case, paths: tuple[Path, ...]) -> Truth:
        files = [str(path) for path in paths]
        if case.kind == "labels":
            parts = [SimpleITKIO().read_seg(files[0])]
        elif case.kind == "pair":
            parts = [SimpleITKIO().read_images(files[:1]), SimpleITKIO().read_seg(files[1])]
        else:
            parts = [SimpleITKIO().read_images(files)]
        stuff = parts[0][1]["sitk_stuff"]
        place = _place_of_itk(stuff["spacing"], stuff["origin"], stuff["direction"])
        return _together([Truth(array.transpose(0, 3, 2, 1), place) for array, _ in parts])

    return read


READERS = {
    "medseg": medseg,
    "nibabel": nibabel,
    "SimpleITK": simpleitk,
    "MONAI LoadImage": monai,
    "nnU-Net SimpleITKIO": nnunet,
}
MODULES = {
    "nibabel": "nibabel",
    "SimpleITK": "SimpleITK",
    "MONAI LoadImage": "monai",
    "nnU-Net SimpleITKIO": "nnunetv2",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reader", action="append", choices=READERS, help="once a reader (all)")
    parser.add_argument("--inputs", action="store_true", help="a line for each input as well")
    args = parser.parse_args()
    names = args.reader or list(READERS)
    missing = [n for n in names if n in MODULES and not importlib.util.find_spec(MODULES[n])]
    print(f"not installed: {', '.join(missing)}" if missing else "all readers are installed")
    got = {name: _all_of(name) for name in names if name not in missing}
    if args.inputs:
        _print_inputs(got)
    refused = sum(case.expected != READ for case in ALONE)
    print(f"\n{refused} inputs to refuse, {len(ALONE) - refused} to read right\n")
    print(
        "| reader | refuse: error | silent (wrong) | warned (wrong) | crash, hang, memory ", end=""
    )
    print("| read: right | wrong | refused |\n|---|---|---|---|---|---|---|---|")
    for name, ends in got.items():
        print(_row(name, ends))


def _row(name: str, ends: dict[str, str]) -> str:
    refuse = Counter(_kind(case, ends[case.name]) for case in ALONE if case.expected != READ)
    read = Counter(_kind(case, ends[case.name]) for case in ALONE if case.expected == READ)
    right = read["silent, right"] + read["warned, right"]
    wrong = read["silent, wrong"] + read["warned, wrong"]
    silent = refuse["silent, right"] + refuse["silent, wrong"]
    warned = refuse["warned, right"] + refuse["warned, wrong"]
    return (
        f"| {name} | {refuse['error']} | {silent} ({refuse['silent, wrong']}) | "
        f"{warned} ({refuse['warned, wrong']}) | {refuse['crash']} | {right} | {wrong} | "
        f"{read['error'] + read['crash']} |"
    )


def _print_inputs(got: dict[str, dict[str, str]]) -> None:
    print("\n| input | expected |", " | ".join(got), "|\n|---|---|" + "---|" * len(got))
    for case in ALONE:
        ends = " | ".join(ends[case.name].replace("\n", " ") for ends in got.values())
        print(f"| {case.name} | {case.expected} | {ends} |")


def _kind(case: Case, end: str) -> str:
    for kind in ("error", "crash"):
        if end.startswith(kind):
            return kind
    said = "warned" if "warned" in end else "silent"
    wrong = "wrong" in end and case.expected != "E_QSFORM"
    return f"{said}, {'wrong' if wrong else 'right'}"


def _all_of(name: str) -> dict[str, str]:
    """How each input ends, read one after the other in forks of this process."""
    reader = READERS[name]()
    began = time.monotonic()
    ends = {}
    for case in ALONE:
        with tempfile.TemporaryDirectory() as folder:
            ends[case.name] = _in_a_fork(reader, case, Path(folder))
    print(f"{name}: {len(ends)} inputs in {time.monotonic() - began:.0f} s", flush=True)
    return ends


def _in_a_fork(reader: Reader, case: Case, folder: Path) -> str:
    (folder / "input").mkdir()
    paths = case.build(folder / "input")
    answer = folder / "answer.json"
    sys.stdout.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads that a fork leaves behind
        child = os.fork()
    if child == 0:
        _read_and_end(reader, case, paths, answer)
    deadline = time.monotonic() + LIMIT_S
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "crash: hangs"
        time.sleep(0.002)
    return json.loads(answer.read_text()) if answer.exists() else "crash: the process died"


def _read_and_end(reader: Reader, case: Case, paths: tuple[Path, ...], answer: Path) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    said = answer.with_name("said")
    for number in (1, 2):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            found = reader(case, paths)
            end = ""
        except MemoryError:
            end = "crash: out of memory"
        except InputFault as fault:
            end = f"error: {fault.code}"
        except Exception as error:  # noqa: BLE001
            end = f"error: {type(error).__name__}"
    words = bool(warned) or said.stat().st_size > 0
    if not end:
        with contextlib.suppress(RuntimeWarning), np.errstate(all="ignore"):
            end = told(case, found, relative=FLOAT32, tolerance_mm=HALF_MM)
        end = ("right" if end == READ else end) + (", warned" if words else "")
    answer.write_text(json.dumps(end))
    os._exit(0)


def _each(read: Callable[[Path], Truth]) -> Reader:
    """A reader of one file as a reader of several, which looks at no two grids together."""
    return lambda _case, paths: _together([read(path) for path in paths])


def _together(parts: list[Truth]) -> Truth:
    if len({part.array.shape[1:] for part in parts}) > 1:
        return parts[0]
    return Truth(np.concatenate([part.array for part in parts]), parts[0].affine)


def _place_of_itk(
    spacing_mm: tuple[float, ...], origin: tuple[float, ...], direction: tuple[float, ...]
) -> np.ndarray:
    """ITK's place of two to four axes as the affine of the first three, in RAS."""
    axes = min(len(spacing_mm), 3)
    affine = np.eye(4)
    turn = np.reshape(direction, (len(spacing_mm), -1))[:axes, :axes]
    affine[:axes, :axes] = turn * np.asarray(spacing_mm)[:axes]
    affine[:axes, 3] = origin[:axes]
    return LPS @ affine


if __name__ == "__main__":
    main()
