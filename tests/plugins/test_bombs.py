"""A small file cannot take all memory, and a picture is no program."""

import gzip
import io
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

import odeflow as of
from odeflow_data import CIFAR10, MNIST, Images, Table
from odeflow_data.archive import unzipped

FREE = 1 << 22
"""Bytes of memory that are free, as far as these tests tell the data."""


@pytest.fixture(autouse=True)
def _little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("archive", "frame"):
        monkeypatch.setattr(f"odeflow_data.{name}.available_memory", lambda: FREE)


def test_arrays_are_measured_before_they_are_unpacked(tmp_path: Path) -> None:
    """A .npz file of four kilobytes that says to hold eight megabytes is refused with both sizes."""
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros(2 * FREE // 8))
    assert (tmp_path / "x.npz").stat().st_size < 10_000 + FREE // 100
    with pytest.raises(of.DataError, match=r"x\.npz unpacks to 0\.0 GiB; 0\.0 GiB of memory are free"):
        Table(str(tmp_path / "x.npz")).setup("fit")


def test_arrays_of_images_are_measured_before_they_are_unpacked(tmp_path: Path) -> None:
    """So are arrays of images."""
    np.savez_compressed(tmp_path / "x.npz", images=np.zeros((20, 700, 700), np.uint8))
    with pytest.raises(of.DataError, match=r"of memory are free"):
        Images(str(tmp_path / "x.npz")).setup("fit")


def test_gzipped_text_is_measured_before_it_is_read(tmp_path: Path) -> None:
    """A gzipped table is unpacked piece by piece to see how large it is, where it may be too large."""
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"a,b\n" + b"1.0,2.0\n" * (FREE // 4), 1))
    with pytest.raises(of.DataError, match=r"x\.csv\.gz unpacks to"):
        Table(str(tmp_path / "x.csv.gz")).setup("fit")


def test_rows_of_parquet_are_counted_before_they_are_read(tmp_path: Path) -> None:
    """A column of equal values takes no place in a Parquet file, but does in memory."""
    pl.select(a=pl.repeat(1.0, FREE)).write_parquet(tmp_path / "x.parquet")
    assert (tmp_path / "x.parquet").stat().st_size * 8 < FREE
    with pytest.raises(of.DataError, match=r"GiB of memory"):
        Table(str(tmp_path / "x.parquet")).setup("fit")


def test_what_is_unzipped_has_a_limit() -> None:
    """Contents of a gzip file end where a published file would."""
    packed = gzip.compress(bytes(1000))
    assert len(unzipped(packed, 1000, "x")) == 1000
    with pytest.raises(of.DataError, match=r"x\.gz unpacks to more than 999 bytes"):
        unzipped(packed, 999, "x.gz")


def test_members_of_an_archive_go_nowhere(tmp_path: Path) -> None:
    """A link in an archive is not followed, and nothing of it is written."""
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(3073))
    root = tmp_path / "root"
    root.mkdir()
    with tarfile.open(root / "cifar-10-binary.tar.gz", "w:gz") as tar:
        for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.type, member.linkname = tarfile.SYMTYPE, str(secret)
            tar.addfile(member)
    with pytest.raises(of.DataError, match=r"cannot be read|is no file"):
        CIFAR10(str(root), verify=False).read("test")
    assert [file.name for file in root.iterdir()] == ["cifar-10-binary.tar.gz"]


def test_a_picture_is_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostScript under the name of a PNG is no image: Pillow would start an interpreter for it."""
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("an interpreter was started"))
    for number in range(20):
        (tmp_path / f"{number % 2}").mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(tmp_path / f"{number % 2}/{number}.png")
    (tmp_path / "0/0.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    )
    with pytest.raises(of.DataError, match=r"0\.png cannot be read: cannot identify image file"):
        Images(str(tmp_path)).setup("fit")


def test_an_idx_file_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gzipped IDX file unpacks to its limit and no further."""
    monkeypatch.setattr("odeflow_data.idx.LARGEST", 1000)
    for name in (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(bytes(2000)))
    with pytest.raises(of.DataError, match=r"unpacks to more than 1,000 bytes"):
        MNIST(str(tmp_path), verify=False).setup("fit")


def test_a_member_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    """The directory of a zip says how large a member is; it is believed before it is read."""
    stream = io.BytesIO()
    np.savez(stream, x=np.zeros(8))
    contents = bytearray(stream.getvalue())
    place = contents.rfind(b"PK\x01\x02")
    contents[place + 24 : place + 28] = (0xFFFFFFF0).to_bytes(4, "little")
    (tmp_path / "x.npz").write_bytes(contents)
    assert zipfile.is_zipfile(tmp_path / "x.npz")
    with pytest.raises(of.DataError, match=r"x\.npz unpacks to 4\.0 GiB"):
        Table(str(tmp_path / "x.npz")).setup("fit")


@pytest.mark.parametrize("contents", [b"\xff\xfe\xc0", b"\x00\x00", b'"'])
def test_bytes_that_are_no_text_are_refused(tmp_path: Path, contents: bytes) -> None:
    """Bytes among the rows of a table that are no text are an error that names the file or the cell."""
    rows = b"1.0,2.0,3.0\n" * 20
    (tmp_path / "x.csv").write_bytes(b"a,b,c\n" + rows + b"1.0," + contents + b",2.0\n" + rows)
    with pytest.raises(of.DataError, match=r"x\.csv"):
        Table(str(tmp_path / "x.csv")).setup("fit")
