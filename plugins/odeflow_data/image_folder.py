"""ImageFolder: image files in a folder for each class."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

import odeflow as of
from odeflow_data.archive import reading
from odeflow_data.image_source import Form, ImageSource
from odeflow_data.memory import available_memory
from odeflow_data.split import PARTS

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Their formats. Pillow would look for others in the contents, too, such as PostScript, which is a program."""
ADVICE = "Put the images of each class into a folder with its name: FOLDER/CLASS/*.png"


class ImageFolder(ImageSource):
    """Image files below a folder.

    Those in `root/CLASS/`, at any depth, have this class; in `root/train/CLASS/`, `root/val/CLASS/` and
    `root/test/CLASS/` they are divided, too; those in `root` itself have no class. Other files are ignored.

    Source: the convention of torchvision's `ImageFolder`.

    Args:
        root: The folder.

    Raises:
        DataError: There is no such folder, it has no images, or its layout is none of these.
    """

    column = "path"

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise of.DataError(
                f"{root} is a file; expected is a folder of images, or a .npz or .npy file"
                if root.is_file()
                else f"there is no folder {root}"
            )
        self.root, self.origin = root, str(root)
        loose, folders = _images(root, deep=False), _folders(root)
        divided = [folder.name for folder in folders if folder.name in PARTS and _folders(folder)]
        if loose and folders:
            raise of.DataError(
                f"{root} has both images, such as {loose[0].name}, and folders, such as {folders[0].name}. {ADVICE}"
            )
        self.files, self.labels, self.parts = loose, None, None
        if divided:
            others = [folder.name for folder in folders if folder.name not in divided]
            if others:
                raise of.DataError(
                    f"{root} is divided into {', '.join(divided)}, so that it cannot have a folder {others[0]}; the "
                    f"parts are {', '.join(PARTS)}, each with a folder for each class"
                )
            found = [(file, label, part) for part in divided for file, label in _classified(root / part)]
            self.parts = [part for _, _, part in found]
        else:
            found = [(file, label, "") for file, label in _classified(root)]
        if found:
            self.files, self.labels = [file for file, _, _ in found], [label for _, label, _ in found]
        if not self.files:
            raise of.DataError(f"{root} has no images ({', '.join(SUFFIXES)}). {ADVICE}")
        self.names = [file.relative_to(root).as_posix() for file in self.files]
        self.form = _form(_pixels(self.files[0], None))

    def read(self, places: Sequence[int], form: Form, why: str, convert: bool) -> Tensor:
        wanted, free = len(places) * form.channels * form.height * form.width, available_memory()
        if free is not None and wanted > free:
            raise of.DataError(
                f"{self.root}: {len(places):,} images of {form} need {wanted / 2**30:.1f} GiB of memory; "
                f"{free / 2**30:.1f} GiB are free. Make them smaller by --data.size [H, W]"
            )
        images = torch.empty(len(places), *form, dtype=torch.uint8)

        def fill(number: int) -> None:
            images[number] = torch.from_numpy(self._read(self.files[places[number]], form, why, convert))

        with ThreadPoolExecutor() as pool:  # decoding releases the interpreter's lock
            list(pool.map(fill, range(len(places))))
        return images

    def _read(self, file: Path, form: Form, why: str, convert: bool) -> NDArray[np.uint8]:
        pixels = _pixels(file, form if convert else None)
        if _form(pixels) != form:
            raise of.DataError(
                f"{file} is {_form(pixels)}, but expected is {form}, {why}. To resize and convert all images set "
                "--data.convert true"
            )
        return pixels


def _classified(root: Path) -> list[tuple[Path, str]]:
    """The images below the folders of a folder, with the names of these.

    Raises:
        DataError: One of the folders has no images.
    """
    found: list[tuple[Path, str]] = []
    for folder in _folders(root):
        files = _images(folder)
        if not files:
            raise of.DataError(f"{folder} has no images ({', '.join(SUFFIXES)}). Remove it, or put images there")
        found += [(file, folder.name) for file in files]
    return found


def _folders(root: Path) -> list[Path]:
    return sorted(each for each in root.iterdir() if each.is_dir() and not each.name.startswith("."))


def _images(root: Path, deep: bool = True) -> list[Path]:
    """The image files in a folder, or at any depth below it."""
    found: list[Path] = []
    for folder, below, names in os.walk(root, followlinks=True):
        below.sort()
        found += [
            Path(folder, name) for name in sorted(names) if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
        if not deep:
            break
    return found


def _form(pixels: NDArray[np.uint8]) -> Form:
    return Form(*pixels.shape)


def _pixels(file: Path, form: Form | None) -> NDArray[np.uint8]:
    """The pixels of an image, upright, (1, H, W) or (3, H, W); what is transparent is black.

    Args:
        file: The image.
        form: The form to which it is converted; its own by default.

    Raises:
        DataError: The image cannot be read, or has more than eight bits in a channel.
    """
    with reading(file, "Remove it, or replace it by an image"), Image.open(file, formats=FORMATS) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith(("I", "F")):
            raise of.DataError(
                f"{file} has more than eight bits in a channel (mode {image.mode}); give such images as an array of "
                "floating-point numbers in a .npz file"
            )
        if image.has_transparency_data:
            clear = image.convert("RGBA")
            solid = Image.alpha_composite(Image.new("RGBA", clear.size, (0, 0, 0, 255)), clear)
            image = solid.convert("L" if image.mode in ("LA", "La", "L") else "RGB")
        grey = image.mode in ("1", "L") if form is None else form.channels == 1
        image = image.convert("L" if grey else "RGB")
        if form is not None and image.size != (form.width, form.height):
            image = image.resize((form.width, form.height), Image.Resampling.BILINEAR)
        pixels = np.array(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
