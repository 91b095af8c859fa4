"""ImageArrays: images that are arrays, with their labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import odeflow as of
from odeflow_data.archive import check_unpacked, reading, require_finite
from odeflow_data.image_source import Form, ImageSource
from odeflow_data.split import PARTS

WANTED = (
    "Wanted are arrays images and labels, or train_images, train_labels and so on for train, val and test; images are "
    "(N, H, W), (N, H, W, C) or (N, C, H, W), labels (N,) or (N, 1)"
)


class ImageArrays(ImageSource):
    """Arrays of images, all of one form.

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W), where the channels are fewer than the pixels of a side. Whole
    numbers from 0 to 255 are bytes, in whatever type they come, those to 65,535 are divided by that, and other numbers
    become single precision as they are.

    Args:
        arrays: `images` and `labels`, or these for each part, as `train_images`; labels may be missing. An array alone
            is images.
        origin: Origin of the arrays, for messages.

    Raises:
        DataError: Arrays are missing, or of other shapes.
    """

    column = "row"

    def __init__(self, arrays: Mapping[str, Any], origin: str) -> None:
        self.origin = origin
        held = {str(name): np.asarray(array) for name, array in arrays.items()}
        known = {f"{part}_": part for part in PARTS if f"{part}_images" in held}
        prefixes = known or {"": ""}
        self.images = [self._images(held, prefix) for prefix in prefixes]
        forms = {Form(*images.shape[1:]) for images in self.images}
        if len(forms) > 1:
            raise of.DataError(f"{origin}: images of all parts must have one form; got {', '.join(map(str, forms))}")
        (self.form,) = forms
        labels = [self._labels(held, prefix, len(each)) for prefix, each in zip(prefixes, self.images, strict=True)]
        every = [label for part in labels if part is not None for label in part]
        if len(every) not in (0, sum(map(len, self.images))):
            raise of.DataError(f"{origin}: some parts have labels and others have none. {WANTED}")
        self.labels = every or None
        sizes = zip(known.values(), self.images, strict=False)
        self.parts = [part for part, images in sizes for _ in range(len(images))] or None
        self.names = range(1, 1 + sum(map(len, self.images)))

    @classmethod
    def of_file(cls, path: Path) -> "ImageArrays":
        """The arrays in a file, .npz or .npy.

        Raises:
            DataError: There is no such file, or it cannot be read.
        """
        if not path.is_file():
            raise of.DataError(f"there is no file {path}")
        with reading(path, WANTED), path.open("rb") as stream:
            loaded = np.load(stream, allow_pickle=False)
            if not isinstance(loaded, np.ndarray):
                check_unpacked(path, sum(held.file_size for held in loaded.zip.infolist()))
            arrays = {"images": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
        return cls(arrays, str(path))

    def read(self, places: Sequence[int], form: Form, why: str, convert: bool) -> Tensor:
        if form != self.form:
            raise of.DataError(
                f"{self.origin} holds images of {self.form}, but expected is {form}, {why}. Arrays are not resized"
            )
        whole = self.images[0] if len(self.images) == 1 else torch.cat(self.images)
        return whole[torch.as_tensor(places, dtype=torch.long)]

    def _images(self, held: Mapping[str, NDArray[Any]], prefix: str) -> Tensor:
        """(N, C, H, W)."""
        name = f"{prefix}images"
        if name not in held:
            raise of.DataError(f"{self.origin} has no array {name}; it holds {', '.join(held)}. {WANTED}")
        images = held[name]
        if images.ndim == 3:
            images = images[:, None]
        if images.ndim != 4 or 0 in images.shape:
            raise of.DataError(f"{self.origin}: {name} has the shape {held[name].shape}. {WANTED}")
        _, first, middle, last = images.shape
        if last < first and last < middle:
            images = np.moveaxis(images, -1, 1)
        elif not (first < middle and first < last) and first != 1:
            raise of.DataError(
                f"{self.origin}: {name} has the shape {images.shape}, which does not show which axis is the channels'; "
                "they must be fewer than the pixels of a side"
            )
        if images.dtype != np.uint8:
            require_finite(Path(self.origin), name, images, WANTED)
            images = self._in_units(images, name)
        return torch.from_numpy(np.ascontiguousarray(images))

    def _in_units(self, images: NDArray[Any], name: str) -> NDArray[Any]:
        """Bytes, or numbers in single precision."""
        low, high = images.min(), images.max()
        whole = images.dtype.kind in "iu" or (images.dtype.kind == "f" and high > 1 and bool((images % 1 == 0).all()))
        if whole and low >= 0 and high <= 255:
            return images.astype(np.uint8)
        if images.dtype.kind not in "iu":
            return images.astype(np.float32)
        if low < 0 or high > 65_535:
            raise of.DataError(
                f"{self.origin}: {name} are whole numbers from {low} to {high}. Wanted are 0 to 255 or 0 to 65,535, or "
                "floating-point numbers in units of your own"
            )
        return images.astype(np.float32) / 65_535

    def _labels(self, held: Mapping[str, NDArray[Any]], prefix: str, count: int) -> list[str] | None:
        """The name of each image's class; None without labels."""
        name = f"{prefix}labels"
        if name not in held:
            return None
        labels = held[name]
        if labels.shape not in ((count,), (count, 1)):
            raise of.DataError(
                f"{self.origin}: {name} has the shape {labels.shape}; expected one label for each of {count:,} images, "
                f"({count},) or ({count}, 1)"
            )
        labels = labels.reshape(count)
        if labels.dtype.kind == "f" and bool((labels == np.rint(labels)).all()):
            labels = labels.astype(np.int64)
        if labels.dtype.kind not in "iubUO":
            raise of.DataError(f"{self.origin}: {name} must hold whole numbers or text; its dtype is {labels.dtype}")
        return [str(label) for label in labels.tolist()]
