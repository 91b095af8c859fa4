"""CIFAR10: the published binary version read, split, checked and downloaded; here made small."""

import hashlib
import io
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import odeflow as of
from odeflow_data import CIFAR10, cifar10

BATCHES = [f"data_batch_{number}.bin" for number in range(1, 6)]


def records(count: int, seed: int) -> bytes:
    """Labels and pixels of noise, as the files have them."""
    random = np.random.default_rng(seed)
    return np.column_stack([np.arange(count) % 10, random.integers(0, 256, (count, 3072))]).astype(np.uint8).tobytes()


def small_files() -> dict[str, bytes]:
    return {name: records(8, seed) for seed, name in enumerate([*BATCHES, "test_batch.bin"])}


def packed(files: dict[str, bytes]) -> bytes:
    """An archive with the files in the published folder."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, contents in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(contents)
            tar.addfile(info, io.BytesIO(contents))
    return stream.getvalue()


def write(root: Path, files: dict[str, bytes]) -> Path:
    root.mkdir(exist_ok=True)
    for name, contents in files.items():
        (root / name).write_bytes(contents)
    return root


def ready(root: Path, stage: str = "fit", **options: Any) -> CIFAR10:
    data = CIFAR10(str(root), **{"val_size": 10, "batch_size": 5, "verify": False} | options)
    data.prepare_data()
    data.setup(stage)
    return data


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of the small files."""
    return write(tmp_path / "cifar", small_files())


def test_planes_become_channels(root: Path) -> None:
    """Each record is a label and the planes of red, green and blue, row by row."""
    data = ready(root, "test", standardise=False)
    ((x, labels),) = data.test_dataloader()
    contents = np.frombuffer(small_files()["test_batch.bin"], np.uint8).reshape(8, 3073)
    assert labels.tolist() == contents[:, 0].tolist()
    for channel in range(3):
        plane = contents[:, 1 + 1024 * channel :][:, :1024].reshape(8, 32, 32)
        torch.testing.assert_close(x[:, channel], torch.from_numpy(plane.copy()).float() / 255)


def test_an_archive_reads_as_its_files(root: Path, tmp_path: Path) -> None:
    """The archive, its folder and the files alone hold the same images."""
    archive = write(tmp_path / "packed", {"cifar-10-binary.tar.gz": packed(small_files())})
    inner = tmp_path / "unpacked"
    inner.mkdir()
    write(inner / "cifar-10-batches-bin", small_files())
    for other in (archive, inner):
        for stage in ("fit", "test"):
            one, two = ready(root, stage), ready(other, stage)
            for mine, theirs in ((one.train, two.train), (one.val, two.val)):
                assert torch.equal(mine.images, theirs.images)
                assert torch.equal(mine.labels, theirs.labels)
        assert torch.equal(one.test.images, two.test.images)


def test_training_images_are_standardised(root: Path) -> None:
    """Each channel by the training part, 30 of 40 images; sizes are known before."""
    data = ready(root, batch_size=30)
    ((x, labels),) = data.train_dataloader()
    assert (len(data.train), len(data.val)) == (30, 10)
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    assert (labels.dtype, tuple(x.shape[1:])) == (torch.int64, data.shape)
    assert data.units.classes[3] == "cat"


def test_training_images_are_shifted_and_mirrored(root: Path) -> None:
    """Only in training; labels stay."""
    data = ready(root)
    batch = next(iter(data.val_dataloader()))
    for training in (True, False):
        data.trainer = SimpleNamespace(training=training)  # pyright: ignore
        x, labels = data.on_after_batch_transfer(batch, 0)
        assert torch.equal(labels, batch[1])
        assert torch.equal(x, batch[0]) is not training


def test_wrong_files_are_refused(root: Path, tmp_path: Path) -> None:
    """Missing, truncated, with other labels, fewer images than published, more validation than images."""
    with pytest.raises(of.DataError, match=r"has neither cifar-10-binary.tar.gz nor all of data_batch_1.bin to"):
        CIFAR10(str(tmp_path)).setup("fit")
    with pytest.raises(
        of.DataError, match=r"data_batch_1.bin has 8 images, the published one 10,000; if that is right"
    ):
        ready(root, verify=True)
    with pytest.raises(of.DataError, match=r"holds 40 training images; val_size = 40 takes all"):
        ready(root, val_size=40)
    (root / BATCHES[2]).write_bytes(records(8, 0)[:-1])
    with pytest.raises(of.DataError, match=r"data_batch_3.bin has 24,583 bytes; wanted a positive multiple of 3,073"):
        ready(root)
    (root / BATCHES[2]).write_bytes(b"\x0a" + records(1, 0)[1:])
    with pytest.raises(of.DataError, match=r"data_batch_3.bin has the label 10; expected labels from 0 to 9"):
        ready(root)
    with pytest.raises(of.SettingError, match=r"val_size must lie in \[1, 49999\]; got 0"):
        CIFAR10(val_size=0)


def test_another_archive_is_refused(tmp_path: Path) -> None:
    """One with another checksum, and one that is no archive."""
    name = "cifar-10-binary.tar.gz"
    write(tmp_path, {name: packed(small_files())})
    with pytest.raises(of.DataError, match=rf"{name} is damaged or another file: md5 \w+, wanted c32a.*530. Delete it"):
        ready(tmp_path, verify=True)
    write(tmp_path, {name: b"<html>"})
    with pytest.raises(of.DataError, match=rf"{name} cannot be read: .* Delete it to download it again"):
        ready(tmp_path)


def test_the_archive_is_downloaded_once(tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for once, checked and kept; another one is not kept."""
    name, contents = "cifar-10-binary.tar.gz", packed(small_files())
    server.files = {name: contents}
    with pytest.raises(of.DataError, match=rf"{name} from {server.url} is damaged or another file: md5"):
        CIFAR10(str(tmp_path), url=server.url).prepare_data()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(cifar10, "CHECKSUM", hashlib.md5(contents).hexdigest())
    for _ in range(2):
        CIFAR10(str(tmp_path), url=server.url).prepare_data()
    assert server.requests == [name, name]
    assert (tmp_path / name).read_bytes() == contents
    monkeypatch.setattr(cifar10, "PER_FILE", 8)
    assert len(ready(tmp_path, verify=True).train) == 30


def test_no_server_is_an_error_with_advice(tmp_path: Path, server: Any) -> None:
    """The message says where the archive was looked for and what to do."""
    with pytest.raises(
        of.DataError, match=r"cannot be downloaded from .*404.* Put cifar-10-binary.tar.gz there, or name"
    ):
        CIFAR10(str(tmp_path), url=server.url).prepare_data()
