"""NIfTI files: read right, refused with a code, written whole."""

import gzip
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.fault import InputFault
from medseg.io import nifti
from medseg.io.nifti import (
    is_nifti,
    read_header,
    read_labels,
    read_volume,
    stem,
    write_labels,
    write_volume,
)
from medseg.volume import Grid, LabelTable, LabelVolume, Volume

SHAPE = (7, 6, 5)
AFFINE = np.array([[0, -1.5, 0, 20], [2, 0, 0, -30], [0, 0, 3.0, 5], [0, 0, 0, 1]])
TABLE = LabelTable.from_names({1: "one", 2: "two", 300: "many"})
VALUES = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)


def image(array=VALUES, affine=AFFINE, *, kind=nib.Nifti1Image, codes=(1, 1)):
    made = kind(array, affine, dtype=array.dtype)
    made.header.set_xyzt_units("mm")
    made.set_qform(affine, codes[0])
    made.set_sform(affine, codes[1])
    return made


def saved(path: Path, made=None, **fields) -> Path:
    """The image as a file, header fields overwritten after nibabel's own checks."""
    made = image() if made is None else made
    data = bytearray(made.to_bytes())
    size = struct.unpack("<i", data[:4])[0]
    swapped = size not in (348, 540)
    kind = nib.Nifti2Header if 540 in (size, int.from_bytes(data[:4], "big")) else nib.Nifti1Header
    length = 540 if kind is nib.Nifti2Header else 348
    header = kind(bytes(data[:length]), endianness=">" if swapped else "<", check=False)
    for name, value in fields.items():
        header[name] = value
    data[:length] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(data), 1) if path.name.endswith(".gz") else bytes(data))
    return path


def pixdim(*sizes):
    return np.array([1, *sizes, 0, 0, 0, 0], dtype=np.float32)


class TestReadRight:
    def check(self, path, array=VALUES, affine=AFFINE):
        volume = read_volume([path], ["CT"])
        assert volume.array.dtype == np.float32
        assert volume.array.flags.c_contiguous
        assert np.array_equal(volume.array[0], array.astype(np.float32))
        assert np.allclose(volume.grid.affine, affine, atol=1e-5)

    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
    def test_plain_and_packed(self, tmp_path, name):
        self.check(saved(tmp_path / name))

    @pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
    @pytest.mark.parametrize("order", "<>")
    def test_every_type_in_both_byte_orders(self, tmp_path, dtype, order):
        array = np.abs(VALUES // 10).astype(np.dtype(dtype).newbyteorder(order))
        header = nib.Nifti1Header(endianness=order)
        header.set_data_dtype(array.dtype)
        made = nib.Nifti1Image(array, AFFINE, header, dtype=array.dtype)
        made.set_sform(AFFINE, 1)
        path = saved(tmp_path / "a.nii.gz", made)
        assert read_header(path).dtype == array.dtype
        self.check(path, array)

    def test_nifti_2(self, tmp_path):
        self.check(saved(tmp_path / "a.nii", image(kind=nib.Nifti2Image)))

    def test_a_gzip_file_of_many_members(self, tmp_path):
        data = image().to_bytes()
        parts = [gzip.compress(data[at : at + 100]) for at in range(0, len(data), 100)]
        (tmp_path / "a.nii.gz").write_bytes(b"".join(parts))
        self.check(tmp_path / "a.nii.gz")

    def test_bytes_after_the_voxels(self, tmp_path):
        data = image().to_bytes()
        for name, content in {
            "plain.nii": data + b"more",
            "within.nii.gz": gzip.compress(data + bytes(1000)),
            "padded.nii.gz": gzip.compress(data) + bytes(512),
            "one.nii.gz": gzip.compress(data) + b"\x1f",
        }.items():
            (tmp_path / name).write_bytes(content)
            self.check(tmp_path / name)

    def test_what_is_packed_is_told_by_the_bytes_and_not_by_the_name(self, tmp_path):
        data = image().to_bytes()
        (tmp_path / "a.nii").write_bytes(gzip.compress(data))
        (tmp_path / "b.nii.gz").write_bytes(data)
        self.check(tmp_path / "a.nii")
        self.check(tmp_path / "b.nii.gz")

    def test_a_header_extension_is_passed_over(self, tmp_path):
        made = image()
        made.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 5000))
        self.check(saved(tmp_path / "a.nii.gz", made))

    @pytest.mark.parametrize("slope", [0.0, np.nan])
    def test_a_slope_of_zero_or_nan_scales_nothing(self, tmp_path, slope):
        self.check(saved(tmp_path / "a.nii", scl_slope=slope, scl_inter=7))

    def test_slope_and_intercept(self, tmp_path):
        path = saved(tmp_path / "a.nii", scl_slope=0.5, scl_inter=-3)
        self.check(path, VALUES * 0.5 - 3)

    def test_names_of_every_kind(self, tmp_path):
        for name in ["A B.NII.GZ", "Schädel 頭.nii", "x.nii.gz", "bad\udcff.nii.gz"]:
            path = tmp_path / name
            path.write_bytes(image().to_bytes())
            self.check(path)
            assert is_nifti(path)
        assert stem(Path("A B.NII.GZ")) == "A B"
        assert stem(Path("a.1.nii")) == "a.1"

    def test_hidden_files_are_no_volumes(self):
        assert not is_nifti(Path("d/._case.nii.gz"))

    def test_an_oblique_left_handed_and_thick_volume(self, tmp_path):
        turn, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))
        affine = np.eye(4)
        affine[:3, :3] = turn * [0.3, 0.3, 10]
        affine[:3, 3] = [-12.5, 80, 3.25]
        assert np.linalg.det(affine) * np.linalg.det(AFFINE) != 0
        for sign in (1, -1):
            flipped = affine @ np.diag([sign, 1, 1, 1])
            self.check(saved(tmp_path / "a.nii", image(affine=flipped)), affine=flipped)

    @pytest.mark.parametrize("codes", [(0, 1), (1, 0), (2, 4)])
    def test_either_form(self, tmp_path, codes):
        self.check(saved(tmp_path / "a.nii", image(codes=codes)))

    @pytest.mark.parametrize("seed", range(8))
    def test_the_qform_is_that_of_nibabel(self, tmp_path, seed):
        generator = np.random.default_rng(seed)
        turn, _ = np.linalg.qr(generator.standard_normal((3, 3)))
        affine = np.eye(4)
        affine[:3, :3] = turn * generator.uniform(0.5, 5, 3)
        affine[:3, 3] = generator.uniform(-200, 200, 3)
        made = image(affine=affine, codes=(1, 0))
        path = saved(tmp_path / "a.nii", made)
        assert np.allclose(read_header(path).grid.affine, made.get_qform(), atol=1e-4)

    def test_a_handedness_of_zero_counts_as_one(self, tmp_path):
        affine = np.diag([1.0, 2, 3, 1])
        path = saved(
            tmp_path / "a.nii",
            image(affine=affine, codes=(1, 0)),
            pixdim=np.array([0, 1, 2, 3, 0, 0, 0, 0]),
        )
        self.check(path, affine=affine)

    @pytest.mark.parametrize(("unit", "factor"), [("micron", 1e-3), ("meter", 1e3), ("mm", 1)])
    def test_units_are_honored(self, tmp_path, unit, factor):
        made = image(affine=np.diag([0.2, 0.3, 0.5, 1]) / factor)
        made.header.set_xyzt_units(unit)
        grid = read_header(saved(tmp_path / "a.nii", made)).grid
        assert np.allclose(grid.spacing_mm, (0.2, 0.3, 0.5), rtol=1e-5)

    def test_a_fourth_axis_of_one(self, tmp_path):
        self.check(saved(tmp_path / "a.nii", image(VALUES[..., None])))

    def test_a_fourth_axis_of_channels(self, tmp_path):
        stack = np.stack([VALUES, VALUES + 1, VALUES * 2], axis=-1)
        path = saved(tmp_path / "a.nii.gz", image(stack))
        assert read_header(path).channels == 3
        volume = read_volume([path], ["a", "b", "c"])
        assert np.array_equal(volume.array, np.moveaxis(stack, -1, 0))

    def test_a_file_a_channel(self, tmp_path):
        paths = [saved(tmp_path / f"{n}.nii.gz", image(VALUES + n)) for n in range(3)]
        volume = read_volume(paths, ["a", "b", "c"])
        assert volume.channels == ("a", "b", "c")
        assert np.array_equal(volume.array[2], VALUES + 2)

    def test_a_volume_larger_than_a_block(self, tmp_path):
        array = np.arange(128 * 128 * 70, dtype=np.int32).reshape(128, 128, 70)
        self.check(saved(tmp_path / "a.nii.gz", image(array)), array)

    def test_real_volumes_equal_nibabel(self, shared_data):
        paths = [
            shared_data / "ct" / "ct_thorax_3mm.nii.gz",
            *sorted((shared_data / "hippocampus" / "imagesTr").glob("*.nii.gz"))[:5],
        ]
        assert len(paths) == 6
        for path in paths:
            peer = nib.load(path)
            self.check(path, np.asarray(peer.dataobj), peer.affine)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


class TestRefused:
    def refuses(self, path, code, read=None):
        with pytest.raises(InputFault) as fault:
            read(path) if read else read_volume([path], ["CT"])
        assert fault.value.code == code
        assert str(fault.value).startswith(str(path))
        assert str(fault.value).count(str(path)) == 1

    @pytest.mark.parametrize(
        ("code", "fields"),
        [
            ("E_DIM", {"dim": [0, 7, 6, 5, 1, 1, 1, 1]}),
            ("E_DIM", {"dim": [9, 7, 6, 5, 1, 1, 1, 1]}),
            ("E_DIM", {"dim": [-3, 7, 6, 5, 1, 1, 1, 1]}),
            ("E_DIM", {"dim": [3, 7, 0, 5, 1, 1, 1, 1]}),
            ("E_DIM", {"dim": [3, 7, -6, 5, 1, 1, 1, 1]}),
            ("E_NDIM", {"dim": [2, 7, 6, 1, 1, 1, 1, 1]}),
            ("E_NDIM", {"dim": [5, 7, 6, 1, 1, 5, 1, 1]}),
            ("E_SINGLE", {"dim": [3, 7, 6, 1, 1, 1, 1, 1]}),
            ("E_CHANNELS", {"dim": [4, 7, 3, 5, 2, 1, 1, 1]}),
            ("E_DTYPE", {"datatype": 128, "bitpix": 24}),
            ("E_DTYPE", {"datatype": 32, "bitpix": 64}),
            ("E_DTYPE", {"datatype": 1536, "bitpix": 128}),
            ("E_DTYPE", {"datatype": 1, "bitpix": 1}),
            ("E_DTYPE", {"datatype": 31999}),
            ("E_DTYPE", {"bitpix": 8}),
            ("E_VOXOFF", {"vox_offset": 100}),
            ("E_VOXOFF", {"vox_offset": -352}),
            ("E_VOXOFF", {"vox_offset": 400.5}),
            ("E_VOXOFF", {"vox_offset": np.nan}),
            ("E_TRUNC", {"vox_offset": 1e9}),
            ("E_TRUNC", {"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}),
            ("E_TRUNC", {"dim": [3, 7, 6, 6, 1, 1, 1, 1]}),
            ("E_PIXDIM", {"pixdim": pixdim(2, -1.5, 3)}),
            ("E_PIXDIM", {"pixdim": pixdim(2, 0, 3)}),
            ("E_PIXDIM", {"pixdim": pixdim(2, np.nan, 3)}),
            ("E_PIXDIM", {"pixdim": pixdim(1, 1.5, 3)}),
            ("E_PIXDIM", {"xyzt_units": 1}),
            ("E_PIXDIM", {"xyzt_units": 5}),
            ("E_QFORM", {"quatern_b": 1.2}),
            ("E_QFORM", {"quatern_b": np.nan}),
            ("E_QFORM", {"qoffset_x": np.inf}),
            ("E_AFFINE", {"srow_x": [np.nan, 0, 0, 0]}),
            ("E_AFFINE", {"srow_y": [0, 0, 0, 0]}),
            ("E_NOFORM", {"qform_code": 0, "sform_code": 0}),
            ("E_QSFORM", {"qoffset_y": 60}),
            ("E_SCALE", {"scl_slope": np.inf}),
            ("E_SCALE", {"scl_slope": 1, "scl_inter": -np.inf}),
            ("E_RANGE", {"scl_slope": 3e38}),
            ("E_MAGIC", {"magic": b"ni1"}),
            ("E_MAGIC", {"magic": b"abc"}),
            ("E_MAGIC", {"sizeof_hdr": 349}),
        ],
    )
    def test_a_header_that_cannot_be(self, tmp_path, code, fields):
        self.refuses(saved(tmp_path / "a.nii", **fields), code)

    def test_a_header_that_asks_for_more_than_a_gzip_file_can_hold(self, tmp_path):
        path = saved(tmp_path / "a.nii.gz", dim=[3, 32767, 32767, 32767, 1, 1, 1, 1])
        self.refuses(path, "E_TOOBIG")

    def test_a_long_axis_of_nifti_2(self, tmp_path):
        dim = [3, 2**40, 6, 5, 1, 1, 1, 1]
        self.refuses(saved(tmp_path / "a.nii", image(kind=nib.Nifti2Image), dim=dim), "E_DIM")
        dim = [4, 7, 6, 5, 2**62, 1, 1, 1]
        self.refuses(saved(tmp_path / "a.nii", image(kind=nib.Nifti2Image), dim=dim), "E_TRUNC")

    def test_two_axes_the_same_way(self, tmp_path):
        affine = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
        rows = {f"srow_{axis}": row for axis, row in zip("xyz", affine[:3], strict=True)}
        side = 2**0.5
        path = saved(tmp_path / "a.nii", image(codes=(0, 1)), pixdim=pixdim(side, side, 1), **rows)
        self.refuses(path, "E_AFFINE")

    def test_a_sheared_sform(self, tmp_path):
        affine = np.eye(4)
        affine[0, 1] = 0.05
        self.refuses(saved(tmp_path / "a.nii", image(affine=affine, codes=(0, 1))), "E_SHEAR")

    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
    @pytest.mark.parametrize("share", [0.1, 0.5, 0.6, 0.99])
    def test_a_file_cut_short(self, tmp_path, name, share):
        whole = saved(tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(InputFault) as fault:
            read_volume([tmp_path / name], ["CT"])
        assert fault.value.code in ("E_GZIP", "E_TRUNC", "E_MAGIC")

    def test_a_gzip_file_at_every_length(self, tmp_path):
        path = saved(tmp_path / "a.nii.gz")
        whole = path.read_bytes()
        for length in range(1, len(whole), 7):
            path.write_bytes(whole[:length])
            with pytest.raises(InputFault):
                read_volume([path], ["CT"])

    def test_a_body_shorter_than_its_header_says(self, tmp_path):
        path = tmp_path / "a.nii.gz"
        path.write_bytes(gzip.compress(image().to_bytes()[:-10]))
        self.refuses(path, "E_TRUNC")

    def test_a_wrong_checksum_a_flipped_voxel_and_a_wrong_length(self, tmp_path):
        path = tmp_path / "a.nii.gz"
        stored = gzip.compress(image().to_bytes(), 0)
        for at in (-8, -3, len(stored) // 2):
            path.write_bytes(flipped(stored, at % len(stored)))
            self.refuses(path, "E_GZIP")

    def test_a_later_member_that_is_damaged(self, tmp_path):
        data = image().to_bytes()
        last = gzip.compress(data[300:], 0)
        path = tmp_path / "a.nii.gz"
        path.write_bytes(gzip.compress(data[:300]) + flipped(last, len(last) - 5))
        self.refuses(path, "E_GZIP")

    def test_any_single_byte_of_a_packed_file(self, tmp_path):
        """What is read from a damaged file is either refused or exactly right."""
        path = saved(tmp_path / "a.nii.gz")
        whole = path.read_bytes()
        right = read_volume([path], ["CT"])
        refused = 0
        for at in range(0, len(whole), 3):
            path.write_bytes(flipped(whole, at))
            try:
                volume = read_volume([path], ["CT"])
            except InputFault:
                refused += 1
                continue
            # The name flags and the date of the gzip header change nothing.
            assert at < 10
            assert np.array_equal(volume.array, right.array)
        assert refused > len(whole) / 3 - 10

    def test_files_of_other_kinds(self, tmp_path):
        for content in (b"\x89PNG\r\n" + bytes(400), b"n+1", gzip.compress(b"hello")):
            path = tmp_path / "a.nii.gz"
            path.write_bytes(content)
            self.refuses(path, "E_MAGIC")
        (tmp_path / "a.nii.gz").write_bytes(b"")
        self.refuses(tmp_path / "a.nii.gz", "E_TRUNC")

    def test_what_is_no_file(self, tmp_path):

        os.mkfifo(tmp_path / "fifo.nii")
        (tmp_path / "folder.nii").mkdir()
        (tmp_path / "link.nii").symlink_to(tmp_path / "gone")
        for path in (
            *(tmp_path / name for name in ("fifo.nii", "folder.nii", "link.nii", "absent.nii")),
            Path("/dev/zero"),
        ):
            self.refuses(path, "E_NOTFILE")

    def test_a_file_that_goes_on_and_on(self, tmp_path):
        path = tmp_path / "a.nii.gz"
        path.write_bytes(gzip.compress(image().to_bytes() + bytes(5_000_000)))
        self.refuses(path, "E_BOMB")

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_a_voxel_that_is_no_number(self, tmp_path, bad):
        for dtype in (np.float32, np.float64):
            array = VALUES.astype(dtype)
            array[3, 3, 3] = bad
            self.refuses(saved(tmp_path / "a.nii.gz", image(array)), "E_NONFINITE")

    def test_a_voxel_beyond_float32(self, tmp_path):
        array = VALUES.astype(np.float64)
        array[0, 0, 0] = -1e39
        self.refuses(saved(tmp_path / "a.nii", image(array)), "E_RANGE")

    def test_an_image_of_one_value(self, tmp_path):
        self.refuses(saved(tmp_path / "a.nii", image(np.full(SHAPE, 7, np.int16))), "E_CONST")

    def test_channels_on_different_grids(self, tmp_path):
        first = saved(tmp_path / "a.nii")
        moved = AFFINE.copy()
        moved[0, 3] += 1
        second = saved(tmp_path / "b.nii", image(affine=moved))
        with pytest.raises(InputFault, match=r"b\.nii: it lies on another grid than a\.nii") as at:
            read_volume([first, second], ["a", "b"])
        assert at.value.code == "E_PAIR"

    def test_memory_is_bounded_before_it_is_asked_for(self, tmp_path):
        """A 2 MB file of a 1.6 GB volume, with room for 0.5 GB more than the interpreter has."""

        header = nib.Nifti1Header(image().to_bytes()[:348])
        header["dim"] = [3, 930, 930, 930, 1, 1, 1, 1]
        members = [
            gzip.compress(header.binaryblock + bytes(4)),
            *[gzip.compress(bytes(1 << 24))] * 100,
        ]
        path = tmp_path / "bomb.nii.gz"
        path.write_bytes(b"".join(members))
        code = (
            "import resource, sys\n"
            "from pathlib import Path\n"
            "from medseg.fault import InputFault\n"
            "from medseg.io.nifti import read_volume\n"
            "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
            "resource.setrlimit(resource.RLIMIT_AS, (used + 500_000_000,) * 2)\n"
            "try:\n"
            "    read_volume([Path(sys.argv[1])], ['CT'])\n"
            "except InputFault as fault:\n"
            "    print(fault.code)\n"
            "status = Path('/proc/self/status').read_text().split()\n"
            "print(int(status[status.index('VmHWM:') + 1]) < 300_000)\n"
        )
        out = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60
        )
        assert out.stdout.split() == ["E_TOOBIG", "True"], out.stderr

    def test_more_than_the_machine_has_is_refused_before_it_is_used(self, tmp_path):
        """A file with holes: 2 TB of voxels in a few kB of disk."""
        path = saved(tmp_path / "a.nii", dim=[3, 10_000, 10_000, 10_000, 1, 1, 1, 1])
        os.truncate(path, 2 * 10**12 + 352)
        self.refuses(path, "E_TOOBIG")


class TestLabels:
    LABELS = (np.abs(VALUES) % 3).astype(np.uint8)

    @pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "i8", "f4", "f8"])
    def test_whole_numbers_of_every_type(self, tmp_path, dtype):
        path = saved(tmp_path / "a.nii.gz", image(self.LABELS.astype(dtype)))
        labels = read_labels(path, TABLE)
        assert labels.array.dtype == np.uint8
        assert np.array_equal(labels.array, self.LABELS)

    def test_values_beyond_a_byte(self, tmp_path):
        array = self.LABELS.astype(np.int32) * 150
        array[array == 150] = 1
        labels = read_labels(saved(tmp_path / "a.nii", image(array)), TABLE)
        assert labels.array.dtype == np.uint16
        assert np.array_equal(labels.array, array)

    def test_a_scaling_that_keeps_them_whole(self, tmp_path):
        path = saved(tmp_path / "a.nii", image(self.LABELS), scl_slope=0.5, scl_inter=0)
        with pytest.raises(InputFault, match="no whole numbers"):
            read_labels(path, TABLE)
        path = saved(tmp_path / "a.nii", image(self.LABELS * 2), scl_slope=0.5, scl_inter=0)
        assert np.array_equal(read_labels(path, TABLE).array, self.LABELS)

    @pytest.mark.parametrize("dtype", ["u1", "i2", "u2"])
    @pytest.mark.parametrize("largest", [1, 2, 3, 6])
    def test_floating_labels_that_a_writer_stored_as_integers(self, tmp_path, dtype, largest):
        """nibabel picks two factors, and some labels fall between two of its steps."""
        labels = (np.arange(self.LABELS.size) % (largest + 1)).reshape(self.LABELS.shape)
        like = image(np.zeros(labels.shape, dtype))
        written = nib.Nifti1Image(labels.astype(np.float64), like.affine, like.header)
        written.set_data_dtype(dtype)
        nib.save(written, tmp_path / "a.nii.gz")
        assert nib.load(tmp_path / "a.nii.gz").dataobj.slope != 1
        table = LabelTable.from_names({value: str(value) for value in range(1, 7)})
        assert np.array_equal(read_labels(tmp_path / "a.nii.gz", table).array, labels)

    @pytest.mark.parametrize(("slope", "intercept"), [(0.02, 0), (1 / 255, 0.0021), (0.99999, 0)])
    def test_a_scaling_that_leaves_them_between_two_labels(self, tmp_path, slope, intercept):
        array = (self.LABELS * 51).astype(np.uint8)
        path = saved(tmp_path / "a.nii", image(array), scl_slope=slope, scl_inter=intercept)
        TestRefused().refuses(path, "E_LABEL", lambda path: read_labels(path, TABLE))

    @pytest.mark.parametrize(
        ("value", "dtype"),
        [(0.9999, "f4"), (np.nan, "f4"), (np.inf, "f8"), (-1, "i2"), (70000, "i4"), (9, "u1")],
    )
    def test_a_value_that_is_no_label(self, tmp_path, value, dtype):
        array = self.LABELS.astype(dtype)
        array[2, 2, 2] = value
        TestRefused().refuses(
            saved(tmp_path / "a.nii.gz", image(array)),
            "E_LABEL",
            lambda path: read_labels(path, TABLE),
        )

    def test_a_map_of_channels(self, tmp_path):
        stack = np.stack([self.LABELS, self.LABELS], axis=-1)
        TestRefused().refuses(
            saved(tmp_path / "a.nii.gz", image(stack)),
            "E_NDIM",
            lambda path: read_labels(path, TABLE),
        )

    def test_labels_cut_short(self, tmp_path):
        path = saved(tmp_path / "a.nii.gz", image(self.LABELS))
        path.write_bytes(path.read_bytes()[:-5])
        TestRefused().refuses(path, "E_GZIP", lambda path: read_labels(path, TABLE))


class TestWritten:
    GRID = Grid(SHAPE, AFFINE)

    def labels(self, dtype=np.uint8):
        return LabelVolume(TestLabels.LABELS.astype(dtype), self.GRID, TABLE)

    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ"])
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_labels_come_back(self, tmp_path, name, dtype):
        path = tmp_path / name
        write_labels(path, self.labels(dtype))
        again = read_labels(path, TABLE)
        assert np.array_equal(again.array, TestLabels.LABELS)
        assert np.array_equal(again.grid.affine, self.GRID.affine)
        assert (path.read_bytes()[:2] == b"\x1f\x8b") == name.lower().endswith(".gz")

    def test_nibabel_and_simpleitk_see_the_same(self, tmp_path):
        sitk = pytest.importorskip("SimpleITK")
        path = tmp_path / "a.nii.gz"
        write_labels(path, self.labels())
        peer = nib.load(path)
        assert np.array_equal(np.asarray(peer.dataobj), TestLabels.LABELS)
        assert np.allclose(peer.affine, AFFINE)
        assert np.allclose(peer.get_qform(), AFFINE, atol=1e-5)
        assert (int(peer.header["qform_code"]), int(peer.header["sform_code"])) == (1, 1)
        assert peer.header.get_xyzt_units()[0] == "mm"
        assert int(peer.header["sizeof_hdr"]) == 348
        other = sitk.ReadImage(str(path))
        assert np.array_equal(sitk.GetArrayFromImage(other).T, TestLabels.LABELS)
        place = other.TransformIndexToPhysicalPoint((6, 5, 4))
        assert np.allclose(np.array(place) * [-1, -1, 1], (AFFINE @ [6, 5, 4, 1])[:3], atol=1e-4)

    def test_the_same_labels_make_the_same_bytes(self, tmp_path):
        write_labels(tmp_path / "a.nii.gz", self.labels())
        write_labels(tmp_path / "b.nii.gz", self.labels())
        assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()

    @pytest.mark.parametrize("count", [1, 3])
    def test_images_come_back(self, tmp_path, count):
        array = np.random.default_rng(2).standard_normal((count, *SHAPE)).astype(np.float32)
        volume = Volume(array, self.GRID, tuple("abc"[:count]))
        write_volume(tmp_path / "a.nii.gz", volume)
        again = read_volume([tmp_path / "a.nii.gz"], volume.channels)
        assert np.array_equal(again.array, array)
        assert again.grid == self.GRID

    def test_arrays_of_any_memory_order(self, tmp_path):
        array = np.asfortranarray(TestLabels.LABELS)[::-1].astype(np.dtype(np.uint16))
        write_labels(tmp_path / "a.nii", LabelVolume(array, self.GRID, TABLE))
        assert np.array_equal(read_labels(tmp_path / "a.nii", TABLE).array, array)

    def test_a_volume_larger_than_a_block(self, tmp_path):
        array = np.arange(128 * 128 * 70, dtype=np.uint32).reshape(128, 128, 70) % 3
        labels = LabelVolume(array.astype(np.uint8), Grid.from_spacing(array.shape), TABLE)
        write_labels(tmp_path / "a.nii.gz", labels)
        assert np.array_equal(read_labels(tmp_path / "a.nii.gz", TABLE).array, array)

    @pytest.mark.parametrize("code", [1, 2, 4])
    def test_labels_lie_in_the_space_of_their_image(self, tmp_path, code):
        grid = read_header(saved(tmp_path / "a.nii", image(codes=(0, code)))).grid
        array = np.zeros(grid.shape, np.uint8)
        write_labels(tmp_path / "b.nii", LabelVolume(array, grid, TABLE))
        header = nib.load(tmp_path / "b.nii").header
        assert (int(header["qform_code"]), int(header["sform_code"])) == (code, code)

    def test_a_slightly_sheared_grid_is_written_so_that_it_is_read_again(self, tmp_path):
        affine = np.eye(4)
        affine[0, 1] = 9e-4
        grid = Grid((2, 1500, 2), affine)
        array = np.zeros(grid.shape, np.uint8)
        array[0, 0, 0] = 1
        write_labels(tmp_path / "a.nii.gz", LabelVolume(array, grid, TABLE))
        header = nib.load(tmp_path / "a.nii.gz").header
        assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 1)
        assert read_labels(tmp_path / "a.nii.gz", TABLE).grid.difference(grid) is None

    def test_another_suffix_is_refused(self, tmp_path):
        with pytest.raises(InputFault) as fault:
            write_labels(tmp_path / "a.png", self.labels())
        assert fault.value.code == "E_SUFFIX"
        assert list(tmp_path.iterdir()) == []

    def test_a_disk_that_changes_bytes_is_noticed(self, tmp_path, monkeypatch):
        monkeypatch.setattr(nifti, "crc32_of", lambda _path: 0)
        with pytest.raises(InputFault, match="differs from what was written") as fault:
            write_labels(tmp_path / "a.nii.gz", self.labels())
        assert fault.value.code == "E_WRITE"
        assert list(tmp_path.iterdir()) == []

    def test_a_killed_writer_leaves_a_whole_map_or_none(self, tmp_path):

        code = (
            "import sys, itertools, numpy as np\n"
            "from pathlib import Path\n"
            "from medseg.io.nifti import write_labels\n"
            "from medseg.volume import Grid, LabelTable, LabelVolume\n"
            "array = np.random.default_rng(0).integers(0, 2, (96, 96, 96)).astype(np.uint8)\n"
            "table = LabelTable.from_names({1: 'one'})\n"
            "labels = LabelVolume(array, Grid.from_spacing(array.shape), table)\n"
            "print(array.sum(), flush=True)\n"
            "for n in itertools.count():\n"
            "    write_labels(Path(sys.argv[1]) / f'{n}.nii.gz', labels)\n"
        )
        whole = 0
        for pause_s in (0.02, 0.09, 0.2):
            folder = tmp_path / str(pause_s)
            folder.mkdir()
            with subprocess.Popen(
                [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE
            ) as process:
                assert process.stdout is not None
                expected = int(process.stdout.readline())
                time.sleep(pause_s)
                process.kill()
            for path in folder.iterdir():
                if is_nifti(path):
                    assert read_labels(path, LabelTable.from_names({1: "one"})).array.sum() == (
                        expected
                    )
                    whole += 1
        assert whole >= 1
