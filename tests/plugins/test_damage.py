"""Laws of damaged files: data that come from files are refused in a line, or are sound."""

import gzip
import hashlib
import io
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import odeflow as of
from odeflow_data import (
    CIFAR10,
    MNIST,
    CharacterTrajectories,
    Hopper,
    Images,
    Pendulum,
    PhysioNet2012,
    Power,
    SeriesTable,
    Table,
    mnist,
    physionet2012,
    power,
)
from odeflow_data.archive import checksum

NOWHERE = "http://127.0.0.1:9"
RANDOM = np.random.default_rng(0)
T, Y = np.sort(RANDOM.uniform(0, 5, (30, 8)), axis=1), RANDOM.normal(size=(30, 8, 2))
SWING = np.stack([np.zeros(60), np.arange(60) / 30, *RANDOM.normal(size=(2, 60))], axis=1)
LENGTHS = RANDOM.integers(2, 9, 40)


def npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def zipped(name: str, text: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, text)
    return stream.getvalue()


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def tarred(texts: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, text in texts.items():
            entry = tarfile.TarInfo(f"set-a/{name}.txt")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
    return stream.getvalue()


IDX = {
    f"{part}-{what}": idx(RANDOM.integers(0, 256 if shape else 10, (count, *shape)))
    for part, count in {"train": 40, "t10k": 8}.items()
    for what, shape in {"images-idx3-ubyte": (28, 28), "labels-idx1-ubyte": ()}.items()
}
CIFAR = {
    name: np.column_stack([RANDOM.integers(0, 10, 4), RANDOM.integers(0, 256, (4, 3072))]).astype(np.uint8).tobytes()
    for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
}
PHOTOS = RANDOM.integers(0, 256, (20, 5, 6, 3)).astype(np.uint8)
MINUTES = b"".join(
    f"1/1/2007;{minute // 60:02}:{minute % 60:02}:00;{minute / 9:.3f};0.1;240.{minute:03};4.0;1.000;2.000;{minute}.000\n".encode()
    for minute in range(60)
)
POWER = (
    b";".join((b"Date;Time;Global_active_power;b;Voltage;d", *(b"Sub_metering_%d" % number for number in (1, 2, 3))))
    + b"\n"
    + MINUTES
)
STAYS = {
    str(
        number
    ): f"Time,Parameter,Value\n00:00,RecordID,{number}\n00:00,Age,{number - 70}\n01:0{number % 10},HR,{number}\n".encode()
    for number in range(100, 130)
}
DIED = b"RecordID,a,b,c,d,death\n" + b"".join(f"{name},1,1,1,1,{int(name) % 2}\n".encode() for name in STAYS)
LETTERS = {
    "labelled_x": RANDOM.normal(size=(LENGTHS.sum(), 3)),
    "labelled_offsets": np.concatenate([[0], LENGTHS.cumsum()]),
    "labelled_y": RANDOM.integers(0, 20, 40),
}


@dataclass(frozen=True)
class Source:
    """A data plugin that reads files.

    Attributes:
        files: Whole ones, by name.
        make: The plugin, given their folder.
        checked: Whether it knows what the files hold, so that it cannot take others.
    """

    files: dict[str, bytes]
    make: Callable[[Path], of.DataModule]
    checked: bool = False


SOURCES = {
    "npy": Source({"x.npy": npy(Y[:, 0])}, lambda folder: Table(str(folder / "x.npy"))),
    "npz": Source({"x.npz": npz(x=Y[:, 0])}, lambda folder: Table(str(folder / "x.npz"))),
    "series": Source({"s.npz": npz(id=np.arange(240) // 8, t=T.ravel(), y=Y.reshape(-1, 2))}, lambda folder: SeriesTable(str(folder / "s.npz"), "t", "id")),
    "hopper": Source({"hopper_first1500.npz": npz(data=RANDOM.normal(size=(20, 9, 14)))}, lambda folder: Hopper(str(folder), points=5)),
    "letters": Source({"character_trajectories.npz": npz(**LETTERS)}, lambda folder: CharacterTrajectories(str(folder))),
    "swing": Source({"schmidt_lipson.npz": npz(swing=SWING, swing__header="o v")}, lambda folder: Pendulum(str(folder), "swing", batch_time=5)),
    "mnist": Source(IDX, lambda folder: MNIST(str(folder), 8, 10, url=NOWHERE), checked=True),
    "mnist, packed": Source({f"{name}.gz": gzip.compress(each, mtime=0) for name, each in IDX.items()}, lambda folder: MNIST(str(folder), 8, 10, url=NOWHERE), checked=True),
    "cifar10": Source(CIFAR, lambda folder: CIFAR10(str(folder), 4, 5, verify=False, url=NOWHERE)),
    "images, arrays": Source({"x.npz": npz(images=PHOTOS, labels=np.arange(20) % 2)}, lambda folder: Images(str(folder / "x.npz"))),
    "images, files": Source({f"{number:02}.png": png(each) for number, each in enumerate(PHOTOS)}, lambda folder: Images(str(folder))),
    "power, zip": Source({f"{power.NAME}.zip": zipped(f"{power.NAME}.txt", POWER)}, lambda folder: Power(str(folder), url=NOWHERE), checked=True),
    "power, text": Source({f"{power.NAME}.txt": POWER}, lambda folder: Power(str(folder), url=NOWHERE), checked=True),
    "power, kept": Source({f"{power.NAME}.npz": npz(table=power.parse(POWER))}, lambda folder: Power(str(folder), url=NOWHERE), checked=True),
    "stays": Source({"set-a.tar.gz": tarred(STAYS), "Outcomes-a.txt": DIED}, lambda folder: PhysioNet2012(str(folder), url=NOWHERE), checked=True),
    "stays, kept": Source({"set-a.npz": npz(**vars(physionet2012.parse(STAYS, DIED)))}, lambda folder: PhysioNet2012(str(folder), url=NOWHERE), checked=True),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _published(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small files count as the published ones, and nothing can be downloaded."""
    sums = {"set-a.tar.gz": b"".join(STAYS.values()), "Outcomes-a.txt": DIED}
    monkeypatch.setattr(
        physionet2012, "SHA256", {name: hashlib.sha256(each).hexdigest() for name, each in sums.items()}
    )
    monkeypatch.setattr(power, "SHA256", hashlib.sha256(POWER).hexdigest())
    monkeypatch.setattr(power, "KEPT", checksum([power.parse(POWER)]))
    stays = physionet2012.parse(STAYS, DIED)
    monkeypatch.setattr(physionet2012, "KEPT", checksum(vars(stays).values()))
    small = mnist.PUBLISHED["mnist"]._replace(checksums=[hashlib.md5(each).hexdigest() for each in IDX.values()])
    monkeypatch.setitem(mnist.PUBLISHED, "mnist", small)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def tensors(batch: Any) -> Iterable[Tensor]:
    parts = batch if isinstance(batch, (tuple, list)) else [batch]
    return [part for part in parts if isinstance(part, Tensor)]


def read(source: Source, folder: Path) -> list[Tensor]:
    """Everything that the plugin makes of a folder, in the order in which it validates and tests."""
    found: list[Tensor] = []
    for stage in ("fit", "test"):
        torch.manual_seed(0)
        data = source.make(folder)
        data.prepare_data()
        data.setup(stage)
        loaders = [data.train_dataloader(), data.val_dataloader()] if stage == "fit" else [data.test_dataloader()]
        found += [part for loader in loaders for batch in loader for part in tensors(batch)]
    return found


def judge(source: Source, folder: Path, whole: list[Tensor]) -> str:
    """How damaged files were taken: "refused", "the same" or, of finite numbers, "others".

    Anything else fails.
    """
    told, found = "", list[Tensor]()
    try:
        found = read(source, folder)
    except of.OdeflowError as problem:
        told = str(problem)
    if told:
        assert "\n" not in told
        return "refused"
    assert all(bool(part.isfinite().all()) for part in found)
    if len(found) == len(whole) and all(map(torch.equal, found, whole)):
        return "the same"
    assert not source.checked
    return "others"


def written(source: Source, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, contents in source.files.items():
        (folder / name).write_bytes(contents)
    return folder


def cut(contents: bytes, chance: random.Random) -> bytes:
    return contents[: chance.randrange(len(contents))]


def flipped(contents: bytes, chance: random.Random) -> bytes:
    changed = bytearray(contents)
    for _ in range(chance.choice([1, 1, 3, 20])):
        changed[chance.randrange(len(changed))] ^= chance.randrange(1, 256)
    return bytes(changed)


def header(contents: bytes, chance: random.Random) -> bytes:
    """Bytes changed at the beginning or the end, where formats say what they hold."""
    changed = bytearray(contents)
    for _ in range(3):
        changed[chance.choice([1, -1]) * chance.randrange(1, min(120, len(changed)))] = chance.randrange(256)
    return bytes(changed)


def swapped(contents: bytes, chance: random.Random) -> bytes:
    """A stretch moved to another place."""
    middle, later = sorted(chance.randrange(len(contents)) for _ in range(2))
    return contents[:middle] + contents[later:] + contents[middle:later]


def blanked(contents: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(contents))
    return contents[:start] + bytes(min(200, len(contents) - start)) + contents[start + 200 :]


def longer(contents: bytes, chance: random.Random) -> bytes:
    return contents + chance.randbytes(50)


DAMAGES = (cut, flipped, header, swapped, blanked, longer)


def damage(source: Source, folder: Path, number: int) -> list[str]:
    """What becomes of one file of a plugin, damaged by each of the ways, as the number settles."""
    whole, outcomes = read(source, written(source, folder)), []
    for way in DAMAGES:
        chance = random.Random(f"{way.__name__} {number}")
        name = chance.choice(sorted(source.files))
        (written(source, folder) / name).write_bytes(way(source.files[name], chance))
        outcomes.append(judge(source, folder, whole))
    return outcomes


@pytest.mark.parametrize("name", SOURCES)
def test_a_damaged_file_is_refused_or_sound(name: str, tmp_path: Path) -> None:
    """Whatever happens to its bytes, a file is refused in a line, or gives finite numbers; published ones, their own."""
    damage(SOURCES[name], tmp_path / "data", 0)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, 6))
@pytest.mark.parametrize("name", SOURCES)
def test_many_damaged_files_are_refused_or_sound(name: str, number: int, tmp_path: Path) -> None:
    """So it is for other bytes: with the ones above some 450 files."""
    damage(SOURCES[name], tmp_path / "data", number)


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_no_file_is_refused(name: str, tmp_path: Path) -> None:
    """Nothing, a folder, an empty file, a web page and a pickle in the place of a file are refused in a line."""
    source = SOURCES[name]
    for file in source.files:
        for contents in (None, b"", b"<html>Please log in</html>", b"\x80\x04N."):
            path = written(source, tmp_path / "data") / file
            if contents is None:
                path.unlink()
                wanted = "others" if name == "images, files" else "refused"  # a folder may hold any number of images
                assert judge(source, tmp_path / "data", []) == wanted
                path.mkdir()
            else:
                path.write_bytes(contents)
            assert judge(source, tmp_path / "data", []) == "refused"


def with_value(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.astype(np.float64)
    changed.flat[7] = value
    return changed


ARRAYS: dict[str, tuple[str, Callable[..., bytes], dict[str, np.ndarray], str]] = {
    "npy": ("x.npy", lambda x: npy(x), {"x": Y[:, 0]}, "x"),
    "npz": ("x.npz", npz, {"x": Y[:, 0]}, "x"),
    "series": ("s.npz", npz, {"t": T, "y": Y}, "y"),
    "times": ("s.npz", npz, {"y": Y, "t": T}, "t"),
    "hopper": ("hopper_first1500.npz", npz, {"data": RANDOM.normal(size=(20, 9, 14))}, "data"),
    "letters": ("character_trajectories.npz", npz, LETTERS, "labelled_x"),
    "offsets": ("character_trajectories.npz", npz, LETTERS, "labelled_offsets"),
    "letter": ("character_trajectories.npz", npz, LETTERS, "labelled_y"),
    "swing": ("schmidt_lipson.npz", npz, {"swing": SWING, "swing__header": np.array("o v")}, "swing"),
    "power, kept": (f"{power.NAME}.npz", npz, {"table": power.parse(POWER)}, "table"),
    "stays, kept": ("set-a.npz", npz, vars(physionet2012.parse(STAYS, DIED)), "value"),
    "feature, kept": ("set-a.npz", npz, vars(physionet2012.parse(STAYS, DIED)), "feature"),
}
WRONG: dict[str, Callable[[np.ndarray], Any]] = {
    "infinite": lambda array: with_value(array, np.inf),
    "1e300": lambda array: with_value(array, 1e300),
    "all 1e300": lambda array: np.full(array.shape, 1e300),
    "all NaN": lambda array: np.full(array.shape, np.nan),
    "complex": lambda array: array.astype(complex),
    "text": lambda array: array.astype(str),
    "objects": lambda array: array.astype(object),
    "a number": lambda array: array.flat[0],
    "nothing": lambda array: array[:0],
    "one row": lambda array: array[:1],
    "another axis": lambda array: array[None],
    "records": lambda array: np.zeros(array.shape, [("a", "f4"), ("b", "f4")]),
    "dates": lambda array: np.zeros(array.shape, "datetime64[s]"),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_nonsense_are_refused(name: str, wrong: Callable[[np.ndarray], Any], tmp_path: Path) -> None:
    """Whole files whose arrays are of another form or dtype, or hold what is not finite in float32, are refused."""
    file, write, arrays, which = ARRAYS[name]
    (tmp_path / file).write_bytes(write(**{**arrays, which: wrong(arrays[which])}))
    source = next(each for each in SOURCES.values() if file in each.files)
    assert judge(source, tmp_path, []) == "refused"


ROWS = {"id": np.arange(240) // 8, "t": T.ravel(), "y": Y.reshape(-1, 2)}
NONSENSE: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "a column without values": (ROWS | {"y": ROWS["y"] * [1, np.nan]}, "column 'y1' is empty or constant in the training series"),
    "one time for all": ({"id": np.arange(30), "t": np.full(30, 3.0), "y": Y[:, 0]}, "all times in column 't' are 3; wanted are several"),
    "values of 1e300": (ROWS | {"y": 1e300 * ROWS["y"]}, "column 'y0' holds .* in row 1; wanted are numbers that are finite in float32"),
    "times of 1e300": (ROWS | {"t": 1e300 * ROWS["t"]}, "column 't' holds .* in row 1; wanted are numbers that are finite in float32"),
}  # fmt: skip


@pytest.mark.parametrize(("arrays", "told"), NONSENSE.values(), ids=NONSENSE)
def test_series_that_tell_nothing_are_refused(arrays: dict[str, np.ndarray], told: str, tmp_path: Path) -> None:
    """Series from which nothing can be learned are an error that says why."""
    (tmp_path / "s.npz").write_bytes(npz(**arrays))
    with pytest.raises(of.DataError, match=told):
        read(SOURCES["series"], tmp_path)


def test_labels_of_another_file_are_refused(tmp_path: Path) -> None:
    """MNIST's labels lie from 0 to 9; a file of the right form with others is not the published one."""
    files = IDX | {"train-labels-idx1-ubyte": idx(RANDOM.integers(56, 256, 40))}
    source = Source(files, SOURCES["mnist"].make)
    with pytest.raises(of.DataError, match="train-labels-idx1-ubyte is damaged or another file: md5"):
        read(source, written(source, tmp_path / "data"))
