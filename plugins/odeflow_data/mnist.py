"""MNIST, and data sets published in its place, from their IDX files."""

from pathlib import Path
from typing import Literal

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

import odeflow as of
from odeflow_data.augmentation import random_affine
from odeflow_data.idx import NAMES, Published, download, present, read_idx
from odeflow_data.published_images import PublishedImages

PUBLISHED = {
    "mnist": Published(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        (
            "6bbc9ace898e44ae57da46a324031adb",
            "a25bea736e30d166cdddb491f175f624",
            "2646ac647ad5339dbf082846283269ea",
            "27ae3e4e09519cfbb04c329615203637",
        ),
        packed=False,  # gzip containers differ between its publishers
        moments=(0.1307, 0.3081),
    ),
    "fashion_mnist": Published(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        classes=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
    ),
    "kmnist": Published(
        "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
        (
            "bdb82020997e1d708af4cf47b453dcf7",
            "e144d726b3acfaa3e44228e80efcd344",
            "5c965bf0a639b31b8f53240b1b52f4d7",
            "7320c461ea6c1c855c0b718fb2a4b134",
        ),
        classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    ),
}
"""The data sets by name."""


class MNIST(PublishedImages):
    """70,000 images of 28×28 pixels in ten classes; the published 60,000 / 10,000 split.

    Files that `root` lacks are downloaded; all are checked whenever they are read. Without `verify` any four IDX files
    with these names are read, with images of one size and labels from 0 on.

    Source: LeCun, Cortes & Burges (1998), "The MNIST database of handwritten digits", CC BY-SA 3.0; Xiao, Rasul &
    Vollgraf (2017), "Fashion-MNIST", MIT; Clanuwat et al. (2018), "Deep Learning for Classical Japanese Literature"
    (Kuzushiji-MNIST), CC BY-SA 4.0. Checksums of the latter two are torchvision's.

    Args:
        root: Folder of the four IDX files, gzipped or not; by default ~/.cache/odeflow/NAME.
        batch_size: Number of images in a training batch.
        val_size: Number of training images kept for validation.
        augment: Whether training images are moved by a random affine map: rotation ±10°, shift ±2 pixels,
            scale 0.9–1.1, shear ±5°.
        standardise: Whether pixels have mean 0 and standard deviation 1 over all; else they lie between 0 and 1, in 256
            levels, which densities need.
        seed: Seed of the split.
        name: The data set: mnist, fashion_mnist or kmnist.
        verify: Whether files must be the published ones, by their checksums. For fashion_mnist and kmnist these are of
            the gzipped files.
        url: Where missing files are downloaded from; by default their publisher's address.

    Raises:
        SettingError: An option is out of range.
        DataError: Without `verify`, a file cannot be read.
    """

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 128,
        val_size: int = 5000,
        augment: bool = True,
        standardise: bool = True,
        seed: int = 0,
        name: Literal["mnist", "fashion_mnist", "kmnist"] = "mnist",
        verify: bool = True,
        url: str | None = None,
    ) -> None:
        super().__init__(60_000, batch_size, val_size, augment, seed)
        self.name, self.verify, self.published = name, verify, PUBLISHED[name]
        self.root, self.url = Path(root or f"~/.cache/odeflow/{name}").expanduser(), url or self.published.url
        self.shape, self.num_classes = (1, 28, 28), 10
        if not verify and all(present(self.root, file) for file in NAMES[:2]):
            images, labels = (read_idx(self.root, file) for file in NAMES[:2])
            self.shape, self.num_classes = (1, *images.shape[1:]), int(labels.max()) + 1
        self.dim = self.shape[1] * self.shape[2]
        self.classes = self.published.classes
        moments = self.published.moments if verify else None
        if not standardise:
            self.units = of.Units()
        elif moments is not None:
            self.units = of.Units(moments[:1], moments[1:])

    def prepare_data(self) -> None:
        for name in NAMES:
            if not present(self.root, name):
                download(self.url, self.root, name, self.published)

    def setup(self, stage: str) -> None:
        if not self.verify:
            rank_zero_warn(f"the IDX files in {self.root} are not verified, as verify is False")
        super().setup(stage)

    def read(self, part: str) -> tuple[Tensor, Tensor]:
        file = {"train": "train", "test": "t10k"}[part]
        published = self.published if self.verify else None
        images = read_idx(self.root, f"{file}-images-idx3-ubyte", published)
        labels = read_idx(self.root, f"{file}-labels-idx1-ubyte", published)
        if images.shape[1:] != self.shape[1:] or labels.shape != images.shape[:1]:
            raise of.DataError(
                f"{self.root} holds images of {file} of shape {tuple(images.shape)} and labels of shape "
                f"{tuple(labels.shape)}; wanted (n, {self.shape[1]}, {self.shape[2]}) and (n,)"
            )
        return images[:, None], labels.long()

    def augmented(self, images: Tensor, dark: Tensor) -> Tensor:
        return random_affine(images, dark=dark)
