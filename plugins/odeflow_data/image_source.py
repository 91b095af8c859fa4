"""ImageSource: images in a folder or in arrays, with what is known of each."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor


class Form(NamedTuple):
    """The form of images.

    Attributes:
        channels: 1 for grey, 3 for RGB; any number in arrays.
        height: In pixels.
        width: In pixels.
    """

    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        colours = {1: "grey", 3: "RGB"}.get(self.channels, f"{self.channels} channels")
        return f"{self.height}×{self.width} {colours}"


class ImageSource(ABC):
    """Images by index, which are read on demand.

    Attributes:
        origin: Origin of the images, for messages.
        form: The form of the first image.
        labels: (N,), the class name of each image; None if there are no classes.
        parts: (N,), the part of each image, "train", "val" or "test"; None if they are not divided.
        names: (N,), the name of each image in a table of predictions.
        column: The column of these names.
    """

    origin: str
    form: Form
    labels: Sequence[str] | None
    parts: Sequence[str] | None
    names: Sequence[Any]
    column: str

    @abstractmethod
    def read(self, places: Sequence[int], form: Form, why: str, convert: bool) -> Tensor:
        """Images.

        Args:
            places: Indices of the images.
            form: The expected form.
            why: Where that form comes from, for messages.
            convert: Whether images of another form are converted to it.

        Returns:
            (len(places), C, H, W), bytes or floating-point numbers.

        Raises:
            DataError: An image cannot be read, or has another form and is not converted.
        """

    def __len__(self) -> int:
        return len(self.names)

    def class_names(self) -> list[str]:
        """The names of the classes, in the order of their numbers: those of the training part if there is one."""
        if self.labels is None:
            return []
        if self.parts is None or "train" not in self.parts:
            return list(dict.fromkeys(self._in_order(self.labels)))
        pairs = zip(self.labels, self.parts, strict=True)
        return list(dict.fromkeys(self._in_order([label for label, part in pairs if part == "train"])))

    def _in_order(self, labels: Sequence[str]) -> list[str]:
        """Labels sorted as numbers if all are numbers, else by the alphabet."""
        return sorted(labels, key=float) if all(_is_number(label) for label in set(labels)) else sorted(labels)


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal()
