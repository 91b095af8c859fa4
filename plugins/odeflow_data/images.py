"""Images: your images, in a folder for each class or in arrays."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

import odeflow as of
from odeflow_data.augmentation import random_affine, random_flip
from odeflow_data.image_arrays import ImageArrays
from odeflow_data.image_folder import ImageFolder
from odeflow_data.image_source import Form, ImageSource
from odeflow_data.names import listed
from odeflow_data.own_data import OwnData, classified, joined, unused
from odeflow_data.pixels import Pixels, channel_moments, standardised
from odeflow_data.rows import whole_batches
from odeflow_data.split import PARTS, Split

if TYPE_CHECKING:
    import polars as pl

EXAMPLES = Path(__file__).parent / "examples"
"""Small files that come with odeflow, read as `example:NAME`; `SOURCES.md` beside them says where they are from."""


class Images(OwnData):
    """Images of any size, split into training, validation and test.

    A batch is (x, class), where the images x are (B, C, H, W) and the classes (B,); without classes it is x. The source
    is a folder with a folder of image files for each class, as in torchvision; one with `train`, `val` and `test`, each
    of which has a folder for each class; a folder of images without classes; or arrays `images` and `labels` of a
    `.npz` file, which may be divided as `train_images`, `train_labels` and so on. What is not divided is split at
    random, each class in the same shares.

    Bytes are divided by 255, and each channel is standardised by mean and standard deviation of the training images,
    which the model keeps, as it keeps the size and the names of the classes: later images are read alike. All images
    are in memory as bytes, C·H·W each, and become floating-point numbers a batch at a time.

    `odeflow predict` takes all images of its source, in the order of their paths, with or without classes. Its table
    has the `path` of each image below the folder, or its `row` in the array from 1 on, the predicted `class`, the
    probability of each, `probability_<class>`, and, where the images are in folders of known classes, the true one,
    `class_true`.

    Args:
        path: The folder, or a `.npz` or `.npy` file; in Python an array of images, or arrays by name.
        channels: 1 for grey images, 3 for RGB; by default as the first one. Transparent pixels are black.
        size: Height and width; by default those of the first image.
        convert: Whether images of another size or number of channels are converted; by default if either is given.
        split: Which images train, validate and test, unless they are divided: shares, or folders or files of their own.
        standardise: Whether pixels are standardised; else bytes lie between 0 and 1.
        flip: Whether training images are mirrored left to right at random.
        affine: Whether training images are moved by a random affine map: rotation ±10°, shift ±2 pixels, scale 0.9–1.1,
            shear ±5°.
        classes: The names of the classes in the order of their numbers; by default those of the training images.
        batch_size: Number of images in a batch, in training and evaluation; the last one may be smaller.

    Raises:
        SettingError: An option is out of range.
        DataError: There are no such images, one cannot be read, or is of another size.

    Example:
        >>> import numpy as np
        >>> data = Images({"images": np.zeros((20, 8, 12), np.uint8), "labels": ["a", "b"] * 10})
        >>> data.shape, data.num_classes
        ((1, 8, 12), 2)
    """

    def __init__(
        self,
        path: str,
        channels: int | None = None,
        size: list[int] | None = None,
        convert: bool | None = None,
        split: Split = Split(),
        standardise: bool = True,
        flip: bool = False,
        affine: bool = False,
        classes: list[str] | None = None,
        batch_size: int = 64,
    ) -> None:
        super().__init__()
        of.check_least(self, 1, batch_size=batch_size, channels=channels, size=size)
        if size is not None and len(size) != 2:
            raise of.SettingError(f"Images: size must be [height, width]; got {size}")
        self.source = opened(path)
        own = self.source.form
        if channels not in (None, 1, 3, own.channels):
            raise of.SettingError(f"Images: channels must be 1 or 3; got {channels}")
        if split.columns:
            raise of.SettingError(
                f"Images: split.by and split.group name columns of a table, but images have none; got {split.columns}. "
                "Put images into folders train, val and test to divide them"
            )
        self.form = Form(channels or own.channels, *(size or own[1:]))
        self.convert = (channels, size) != (None, None) if convert is None else convert
        self.class_names = tuple(self.source.class_names() if classes is None else classes)
        if len(self.class_names) == 1:
            raise of.DataError(
                f"{self.source.origin} has one class only, {self.class_names[0]}; a classification needs two or more"
            )
        self.settle(
            channels=self.form.channels, size=list(self.form[1:]), convert=self.convert, classes=list(self.class_names)
        )
        self.shape = tuple(self.form)
        self.dim = self.form.channels * self.form.height * self.form.width
        if self.class_names:
            self.num_classes = len(self.class_names)
        self.split, self.standardise = split, standardise
        self.flip, self.affine, self.batch_size = flip, affine, batch_size
        self._parts: dict[str, Pixels] = {}
        self._whole: Pixels | None = None

    def setup(self, stage: str) -> None:
        if stage == "predict":
            images = self._whole or Pixels(self._images(self.source, range(len(self.source))), None, self.known)
            images.units, self._whole, self.predicted = self.known, images, images
            return
        if not self._parts:
            self._parts = self._divided()
        if self.units is None:
            self.units = self._fitted(self._parts["train"].images)
        for part in self._parts.values():
            part.units = self.known
        if not len(self._parts["val"]) and self.split.val == 0:
            self._parts["val"] = self._parts["train"]
        self.train, self.val, self.test = (self._parts[name] for name in PARTS)
        for name in {"fit": ("train", "val"), "validate": ("val",)}.get(stage, ()):
            if not len(self._parts[name]):
                counts = ", ".join(f"{len(each):,} {part}" for part, each in self._parts.items())
                raise of.DataError(
                    f"{self.source.origin} has too few images: {counts}, but {stage} needs some of {name}. Give more "
                    "images, or other shares by --data.split.val and --data.split.test"
                )
        if self.train.labels is not None:
            self.class_counts = self.train.labels.bincount(minlength=len(self._names)).tolist()
        if stage in ("fit", "test"):
            self.say(self._summary())

    # Images

    def _images(self, source: ImageSource, places: Sequence[int]) -> Tensor:
        why = f"as {source.names[0]}" if source.form == self.form else "as in training, or by size and channels"
        return source.read(places, self.form, why, self.convert)

    def _pixels(self, source: ImageSource, places: Sequence[int]) -> Pixels:
        labels = None
        if source.labels is not None and self._names:
            numbers = {name: number for number, name in enumerate(self._names)}
            for place in places:
                if source.labels[place] not in numbers:
                    raise of.DataError(
                        f"{source.origin}: {source.column} {source.names[place]} is of class {source.labels[place]!r}, "
                        f"which was not there in training; the classes are {listed(self._names)}"
                    )
            labels = torch.tensor([numbers[source.labels[place]] for place in places], dtype=torch.long)
        return Pixels(self._images(source, places), labels, self.known)

    @property
    def _names(self) -> tuple[str, ...]:
        """The names of the classes, of the model if it is trained."""
        return self.known.classes or self.class_names

    def _divided(self) -> dict[str, Pixels]:
        """Training, validation and test."""
        places = self._places()
        found = {name: self._pixels(self.source, places.get(name, [])) for name in PARTS}
        for name, path in self.split.files.items():
            other = opened(path)
            found[name] = self._pixels(other, range(len(other)))
        return found

    def _places(self) -> dict[str, list[int]]:
        """The numbers of the images of each part in the first source."""
        parts = self.source.parts or ["train"] * len(self.source)
        given = {name: [place for place, part in enumerate(parts) if part == name] for name in dict.fromkeys(parts)}
        shares = {"val": self.split.val, "test": self.split.test}
        split = {name: share for name, share in shares.items() if not isinstance(share, str) and name not in given}
        whole = given.get("train", [])
        sizes = [round(share * len(whole)) for share in split.values()]
        order = self._order(whole)
        cut = [piece.tolist() for piece in order.split([len(whole) - sum(sizes), *sizes])]
        return given | dict(zip(("train", *split), cut, strict=True))

    def _order(self, places: Sequence[int]) -> Tensor:
        """The places in a random order in which each stretch has about the same share of every class."""
        generator = torch.Generator().manual_seed(self.split.seed)
        order = torch.tensor(places, dtype=torch.long)[torch.randperm(len(places), generator=generator)]
        if self.source.labels is None:
            return order
        labels = [self.source.labels[place] for place in order.tolist()]
        at = torch.empty(len(order), dtype=torch.float64)
        for label in dict.fromkeys(labels):
            own = torch.tensor([number for number, each in enumerate(labels) if each == label])
            first = torch.rand((), generator=generator, dtype=torch.float64) / 2  # rare classes train before they test
            at[own] = (torch.arange(len(own)) + first) / len(own)
        return order[at.argsort()]

    # Units

    def _fitted(self, images: Tensor) -> of.Units | None:
        """Units in which each channel of the training images has mean 0 and standard deviation 1; None without any.

        Raises:
            DataError: A channel is constant.
        """
        if not len(images):
            return None
        shift, scale = channel_moments(images) if self.standardise else ((0.0,), (1.0,))
        if 0 in scale:
            raise of.DataError(
                f"{self.source.origin} cannot be standardised: channel {scale.index(0)} is constant in the "
                f"{len(images):,} training images. Set --data.standardise=false"
            )
        return of.Units(shift, scale, classes=self.class_names)

    def _summary(self) -> str:
        """The parts, their sizes and origin, the form and the classes, in one line."""
        counts = [len(self.train), 0 if self.val is self.train else len(self.val), len(self.test)]
        order = None if self.source.parts is None else "folder" if self.source.column == "path" else "array"
        facts = [f"{self.source.origin}: {self.split.summary(counts, 'images', order)}", f"{self.form}"]
        if self.class_counts is None:
            facts += ["no classes"]
        else:
            sizes = [f"{name} ({count:,})" for name, count in zip(self._names, self.class_counts, strict=True)]
            facts += [f"classes: {listed(sizes)}"]
        return "; ".join([*facts, "standardised" if self.standardise else "between 0 and 1"])

    # Batches

    def training_part(self) -> Any:
        return self.train.thinned() if len(self.train) else None

    def train_dataloader(self) -> DataLoader[Any]:
        return whole_batches(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return whole_batches(self.val, self.batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        if not len(self.test):
            self.split.refuse_test(self.source.origin, "images")
        return whole_batches(self.test, self.batch_size)

    def predict_dataloader(self) -> DataLoader[Any]:
        return whole_batches(self.predicted, self.batch_size)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if not ((self.flip or self.affine) and self.trainer is not None and self.trainer.training):
            return batch
        images, *labels = batch if isinstance(batch, (tuple, list)) else [batch]
        if self.affine:
            dark = standardised(torch.zeros(self.form.channels, 1, 1), self.known)
            images = random_affine(images, dark=dark.to(images))
        if self.flip:
            images = random_flip(images)
        return (images, *labels) if labels else images

    # Predictions

    def table(self, predictions: Sequence[Any]) -> "pl.DataFrame":
        import polars as pl

        values = joined(predictions)
        count, labels = len(values), self.source.labels
        if values.dim() == 1:
            columns: dict[str, Any] = {"log_prob": values.numpy()}
        elif values.dim() == 2 and self._names and values.shape[1] == len(self._names):
            columns = classified("class", self._names, values)
        else:
            raise of.DataError(
                f"Images cannot write predictions of shape {tuple(values.shape)} as a table; expected (images,) or "
                f"(images, {len(self._names)} classes). Leave out --output to write predictions.pt"
            )
        if labels is not None and set(labels) & set(self._names):
            columns[unused("class_true", columns)] = list(labels[:count])
        return pl.DataFrame({unused(self.source.column, columns): list(self.source.names[:count])} | columns)


def opened(source: Any) -> ImageSource:
    """The images of a path, of arrays by name, or of one array.

    Raises:
        DataError: There are none.
    """
    if isinstance(source, (str, PurePath)):
        name = str(source)
        path = _example(name.removeprefix("example:")) if name.startswith("example:") else Path(name).expanduser()
        return ImageArrays.of_file(path) if path.suffix.lower() in (".npz", ".npy") else ImageFolder(path)
    return ImageArrays(source if isinstance(source, Mapping) else {"images": source}, "the images")


def _example(name: str) -> Path:
    """The file of an example."""
    known = sorted(file.stem for file in EXAMPLES.glob("*.npz"))
    if name not in known:
        raise of.DataError(f"there is no example {name!r} of images; there are {', '.join(known)}")
    return EXAMPLES / f"{name}.npz"
