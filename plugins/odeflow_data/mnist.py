"""MNIST: handwritten digits from their published IDX files."""

import gzip
import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import odeflow as of
from odeflow_data.archive import reading
from odeflow_data.download import fetch, keep
from odeflow_data.full_batches import full_batches

URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
FILES = {  # md5 of the decompressed files, since gzip containers differ between publishers
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
MEAN, STD = 0.1307, 0.3081


class MNIST(of.DataModule):
    """70,000 images of 28×28 pixels in ten classes; the published 60,000 / 10,000 split.

    The last `val_size` training images, shuffled by `seed`, are kept for validation. Files that `root` lacks are
    downloaded; all are checked whenever they are read.

    Source: LeCun, Cortes & Burges (1998), "The MNIST database of handwritten digits". CC BY-SA 3.0.

    Args:
        root: Folder of the four IDX files, gzipped or not.
        batch_size: Number of images in a training batch.
        val_size: Number of training images kept for validation.
        augment: Whether training images are moved by a random affine map: rotation ±10°, shift ±2 pixels,
            scale 0.9–1.1, shear ±5°.
        standardise: Whether pixels have mean 0 and standard deviation 1 over all; else they lie between 0 and 1, in 256
            levels, which densities need.
        seed: Seed of the split.
        url: Where missing files are downloaded from.
    """

    standardises = True

    def __init__(
        self,
        root: str = "~/.cache/odeflow/mnist",
        batch_size: int = 128,
        val_size: int = 5000,
        augment: bool = True,
        standardise: bool = True,
        seed: int = 0,
        url: str = URL,
    ) -> None:
        super().__init__()
        of.check_least(self, 1, batch_size=batch_size)
        of.check_least(self, 0, seed=seed)
        if not 0 < val_size < 60_000:
            raise of.SettingError(f"MNIST: val_size must lie between 1 and 59,999; got {val_size}")
        self.dim, self.num_classes = 784, 10
        self.shape = (1, 28, 28)
        self.root, self.url = Path(root).expanduser(), url
        self.batch_size, self.val_size, self.augment, self.seed = batch_size, val_size, augment, seed
        self.units = of.Units((MEAN,), (STD,)) if standardise else of.Units()

    def prepare_data(self) -> None:
        for name, checksum in FILES.items():
            if not _present(self.root, name):
                _download(self.url, self.root, name, checksum)

    def setup(self, stage: str) -> None:
        if stage in ("fit", "validate"):
            images, labels = self._read("train")
            if len(images) <= self.val_size:
                raise of.DataError(
                    f"{self.root} holds {len(images)} training images; val_size = {self.val_size} takes all"
                )
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.seed))
            train, val = order[: -self.val_size], order[-self.val_size :]
            self.train = TensorDataset(images[train], labels[train])
            self.val = TensorDataset(images[val], labels[val])
        else:
            self.test = TensorDataset(*self._read("t10k"))

    def _read(self, part: str) -> tuple[Tensor, Tensor]:
        """Images (N, 1, 28, 28) and labels (N,)."""
        images = read_idx(self.root, f"{part}-images-idx3-ubyte")
        labels = read_idx(self.root, f"{part}-labels-idx1-ubyte")
        if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
            raise of.DataError(
                f"{self.root} holds images of {part} of shape {tuple(images.shape)} and labels of shape "
                f"{tuple(labels.shape)}; wanted (n, 28, 28) and (n,)"
            )
        return self._known.standardised(images[:, None].float() / 255), labels.long()

    @property
    def _known(self) -> of.Units:
        return self.units or of.Units()

    def train_dataloader(self) -> DataLoader[object]:
        return full_batches(self, self.train, len(self.train), self.batch_size)

    def val_dataloader(self) -> DataLoader[object]:
        return DataLoader(self.val, batch_size=1000)

    def test_dataloader(self) -> DataLoader[object]:
        return DataLoader(self.test, batch_size=1000)

    def predict_dataloader(self) -> DataLoader[object]:
        return self.test_dataloader()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if not (self.augment and self.trainer is not None and self.trainer.training):
            return batch
        images, labels = batch
        dark = float(self._known.standardised(torch.zeros(1)))
        return random_affine(images, dark=dark), labels


def random_affine(
    images: Tensor,
    degrees: float = 10,
    shift: float = 2,
    scale: float = 0.1,
    shear: float = 5,
    dark: float = -MEAN / STD,
) -> Tensor:
    """Each image rotated, shifted, scaled and sheared at random, bilinearly; what comes in from outside is dark.

    Args:
        images: (B, 1, H, W).
        degrees: Largest rotation.
        shift: Largest shift, in pixels.
        scale: Largest change of scale.
        shear: Largest shear, in degrees.
        dark: The value of what comes in.

    Returns:
        (B, 1, H, W).
    """
    count, _, height, width = images.shape

    def uniform(largest: float) -> Tensor:
        return (2 * torch.rand(count, device=images.device) - 1) * largest

    angle, slant, size = uniform(math.radians(degrees)), uniform(math.radians(shear)).tan(), 1 + uniform(scale)
    cos, sin = angle.cos() / size, angle.sin() / size
    first = torch.stack([cos, -sin + slant * cos, uniform(2 * shift / width)], dim=1)
    second = torch.stack([sin, cos + slant * sin, uniform(2 * shift / height)], dim=1)
    grid = F.affine_grid(torch.stack([first, second], dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images - dark, grid.to(images), align_corners=False) + dark


def _present(root: Path, name: str) -> bool:
    return (root / name).is_file() or (root / f"{name}.gz").is_file()


def _download(url: str, root: Path, name: str, checksum: str) -> None:
    """Fetches one gzipped file, and keeps it decompressed once its contents are the published ones."""
    address = f"{url.rstrip('/')}/{name}.gz"
    packed = fetch(address, root, name, "Put the four IDX files there")
    with reading(address, failed="is not a gzip file"):
        contents = gzip.decompress(packed.getvalue())
    _check(contents, f"{name} from {url}", checksum)
    keep(root, name, lambda part: part.write_bytes(contents))


def read_idx(root: Path, name: str) -> Tensor:
    """An array of bytes in the IDX format, gzipped or not.

    Args:
        root: Folder of the file.
        name: Its name, without `.gz`.

    Returns:
        uint8, of the shape that the file states.

    Raises:
        DataError: The file is absent, truncated, no IDX file of bytes, or not the published one.
    """
    plain, packed = root / name, root / f"{name}.gz"
    if not _present(root, name):
        raise of.DataError(f"{root} has neither {name} nor {name}.gz; it must hold MNIST's four IDX files")
    source = plain if plain.is_file() else packed
    with reading(source, "Delete it to download it again", "cannot be decompressed"):
        contents = plain.read_bytes() if source == plain else gzip.decompress(packed.read_bytes())
    if len(contents) < 4 or contents[:3] != b"\x00\x00\x08":
        raise of.DataError(f"{name} is no IDX file of bytes: it begins with {contents[:4].hex(' ') or 'nothing'}")
    start = 4 + 4 * contents[3]
    shape = tuple(int.from_bytes(contents[at : at + 4], "big") for at in range(4, start, 4))
    total = start + math.prod(shape)
    if len(contents) != total:
        raise of.DataError(f"{name} states the shape {shape}, so {total} bytes in all, but has {len(contents)}")
    _check(contents, str(source), FILES[name], "Delete it to download it again")
    return torch.from_numpy(np.frombuffer(contents, np.uint8, offset=start).reshape(shape).copy())


def _check(contents: bytes, origin: str, checksum: str, advice: str = "") -> None:
    """Raises unless the contents are the published ones."""
    found = hashlib.md5(contents, usedforsecurity=False).hexdigest()
    if found != checksum:
        raise of.DataError(f"{origin} is damaged or another file: md5 {found}, wanted {checksum}. {advice}".rstrip())
