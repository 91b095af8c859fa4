"""CIFAR10: small photographs from their published binary version."""

import hashlib
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import odeflow as of
from odeflow_data.archive import check_unpacked, reading
from odeflow_data.augmentation import random_affine, random_flip
from odeflow_data.download import fetch, keep
from odeflow_data.published_images import PublishedImages

URL = "https://www.cs.toronto.edu/~kriz/"
ARCHIVE, CHECKSUM = "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"
FOLDER = "cifar-10-batches-bin"
FILES = {"train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "test": ("test_batch.bin",)}
RECORD = 1 + 3 * 32 * 32  # a label and the planes of red, green and blue
PER_FILE = 10_000
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class CIFAR10(PublishedImages):
    """60,000 RGB images of 32×32 pixels in ten classes; the published 50,000 / 10,000 split.

    The archive is downloaded if `root` has neither it nor its `.bin` files. Each channel is standardised by mean and
    standard deviation of the training images.

    Source: Krizhevsky (2009), "Learning Multiple Layers of Features from Tiny Images". The md5 of the archive is that
    of https://www.cs.toronto.edu/~kriz/cifar.html; the `.bin` files have no published one.

    Args:
        root: Folder of `cifar-10-binary.tar.gz`, or of the files `data_batch_1.bin` to `test_batch.bin`, which may be
            in a folder `cifar-10-batches-bin` there.
        batch_size: Number of images in a training batch.
        val_size: Number of training images kept for validation.
        augment: Whether training images are mirrored left to right at random, and shifted by up to 4 pixels.
        standardise: Whether pixels are standardised; else they lie between 0 and 1, in 256 levels.
        seed: Seed of the split.
        verify: Whether the archive must have the published checksum, and each `.bin` file 10,000 images.
        url: Where the archive is downloaded from.

    Raises:
        SettingError: An option is out of range.
    """

    classes = CLASSES

    def __init__(
        self,
        root: str = "~/.cache/odeflow/cifar10",
        batch_size: int = 128,
        val_size: int = 5000,
        augment: bool = True,
        standardise: bool = True,
        seed: int = 0,
        verify: bool = True,
        url: str = URL,
    ) -> None:
        super().__init__(50_000, batch_size, val_size, augment, seed)
        self.dim, self.shape, self.num_classes = 3072, (3, 32, 32), 10
        self.root, self.url, self.verify = Path(root).expanduser(), url, verify
        self.units = None if standardise else of.Units(classes=CLASSES)

    def prepare_data(self) -> None:
        archive = self.root / ARCHIVE
        if archive.is_file() or self._folder() is not None:
            return
        address = f"{self.url.rstrip('/')}/{ARCHIVE}"
        contents = fetch(address, self.root, ARCHIVE, f"Put {ARCHIVE} there").getvalue()
        _check(contents, f"{ARCHIVE} from {self.url}")
        keep(self.root, ARCHIVE, lambda part: part.write_bytes(contents))

    def _folder(self) -> Path | None:
        """The folder of the `.bin` files; None if they are not there."""
        names = [name for part in FILES.values() for name in part]
        folders = (self.root, self.root / FOLDER)
        return next((each for each in folders if all((each / name).is_file() for name in names)), None)

    def read(self, part: str) -> tuple[Tensor, Tensor]:
        folder = self._folder()
        if folder is not None:
            parts = [_records(_contents(folder / name), str(folder / name), self.verify) for name in FILES[part]]
        else:
            parts = self._unpacked(FILES[part])
        records = torch.from_numpy(np.concatenate(parts))
        return records[:, 1:].reshape(-1, *self.shape), records[:, 0].long()

    def _unpacked(self, names: Sequence[str]) -> list[np.ndarray]:
        """The records of files in the archive."""
        archive = self.root / ARCHIVE
        if not archive.is_file():
            raise of.DataError(
                f"{self.root} has neither {ARCHIVE} nor all of data_batch_1.bin to data_batch_5.bin and test_batch.bin"
            )
        if self.verify:
            _check(_contents(archive), str(archive), "Delete it to download it again")
        parts: list[np.ndarray] = []
        with reading(archive, "Delete it to download it again"), tarfile.open(archive) as tar:
            for name in names:
                check_unpacked(f"{archive}: {name}", tar.getmember(f"{FOLDER}/{name}").size)
                member = tar.extractfile(f"{FOLDER}/{name}")
                if member is None:
                    raise of.DataError(f"{archive}: {FOLDER}/{name} is no file")
                parts.append(_records(member.read(), f"{archive}: {name}", self.verify))
        return parts

    def augmented(self, images: Tensor, dark: Tensor) -> Tensor:
        return random_flip(random_affine(images, degrees=0, shift=4, scale=0, shear=0, dark=dark))


def _contents(file: Path) -> bytes:
    with reading(file):
        return file.read_bytes()


def _check(contents: bytes, origin: str, advice: str = "") -> None:
    """Raises unless the archive is the published one."""
    found = hashlib.md5(contents, usedforsecurity=False).hexdigest()
    if found != CHECKSUM:
        raise of.DataError(f"{origin} is damaged or another file: md5 {found}, wanted {CHECKSUM}. {advice}".rstrip())


def _records(contents: bytes, origin: str, verify: bool) -> np.ndarray:
    """(N, 3073), the label and the pixels of each image.

    Raises:
        DataError: The file is truncated, has other labels, or not the published number of images.
    """
    count, rest = divmod(len(contents), RECORD)
    if rest or not count:
        raise of.DataError(f"{origin} has {len(contents):,} bytes; wanted a positive multiple of {RECORD:,}")
    records = np.frombuffer(contents, np.uint8).reshape(count, RECORD)
    if records[:, 0].max() >= len(CLASSES):
        raise of.DataError(f"{origin} has the label {records[:, 0].max()}; expected labels from 0 to 9")
    if verify and count != PER_FILE:
        raise of.DataError(
            f"{origin} has {count:,} images, the published one {PER_FILE:,}; if that is right, set --data.verify false"
        )
    return records
