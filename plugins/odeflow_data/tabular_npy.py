"""TabularNPY: anyone's table of numbers from a NumPy file."""

import zipfile
from difflib import get_close_matches
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

import odeflow as of
from odeflow_data.archive import LARGEST, reading
from odeflow_data.table import Table, batches

NO_ARRAYS = "is no .npy or .npz file"
SHOWN = 5
"""Number of rows or columns that an error names."""


class TabularNPY(Table):
    """The rows of an (N, D) array in a `.npy` or `.npz` file, shuffled and split into training, validation and test.

    Args:
        path: The file.
        key: Name of the array in a `.npz` file that holds several.
        batch_size: Number of rows in a batch, in training and evaluation; the last one may be smaller.
        val: Share of the rows that validate.
        test: Share of the rows that test.
        standardise: Whether each column is standardised by mean and standard deviation of the training rows. A trained
            model keeps to what it was trained with, whatever this says.
        seed: Of the split.

    Raises:
        SettingError: The shares leave nothing, or the file has no array of this name.
        DataError: There is no such file, or what is in it is no table of real numbers.
    """

    standardises = True

    def __init__(
        self,
        path: str,
        key: str | None = None,
        batch_size: int = 1000,
        val: float = 0.1,
        test: float = 0.1,
        standardise: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        of.check_least(self, 1, batch_size=batch_size)
        of.check_least(self, 0, seed=seed)
        if not (val > 0 and test > 0 and val + test < 1):
            raise of.SettingError(
                f"TabularNPY: val and test must be positive and leave a share to train on; got {val} and {test}"
            )
        self.path, self.batch_size, self.val_share, self.test_share = Path(path).expanduser(), batch_size, val, test
        self.standardise, self.seed = standardise, seed
        self.member = _member(self.path, key)
        self.dim = _columns(self.path, self.member)

    def setup(self, stage: str) -> None:
        table = _table(self.path, self.member)
        count = len(table)
        val, test = round(self.val_share * count), round(self.test_share * count)
        train = count - val - test
        if min(train, val, test) < 1:
            raise of.DataError(
                f"{self.path} has too few rows: of {count}, {train} would train, {val} validate and {test} test; "
                "each part needs one. Give more rows, or other shares by --data.val and --data.test"
            )
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))
        x = torch.from_numpy(table)[order]
        if self.units is None:
            self.units = self._fitted(x[:train]) if self.standardise else of.Units()
        self.train, self.val, self.test = self.units.standardised(x).float().split([train, val, test])

    def _fitted(self, train: Tensor) -> of.Units:
        """Units in which the training rows have mean 0 and standard deviation 1."""
        self._require_variation(train)
        mean, std = train.mean(dim=0), train.std(dim=0, correction=0)
        return of.Units(tuple(mean.tolist()), tuple(std.tolist()))

    def _require_variation(self, train: Tensor) -> None:
        constant = (train.amax(dim=0) == train.amin(dim=0)).nonzero()[:, 0]
        if len(constant):
            raise of.DataError(
                f"{self.path} cannot be standardised: constant in the {len(train)} training rows are "
                f"{_some('column', constant.tolist())}. Leave them out, or set --data.standardise=false"
            )

    def train_dataloader(self) -> DataLoader[Tensor]:
        return batches(self.train, self.batch_size, shuffle=True)


def _member(path: Path, key: str | None) -> str | None:
    """Name of the array in a `.npz` file, None in a `.npy` file."""
    if not path.is_file():
        raise of.DataError(f"TabularNPY: there is no file {path}; name a .npy or .npz file by --data.path")
    if not zipfile.is_zipfile(path):
        if key is not None:
            raise of.SettingError(f"{path} holds one array without a name; leave out key = {key!r}")
        return None
    with reading(path, failed=NO_ARRAYS), zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    if key is None and len(names) == 1:
        return names[0]
    if key in names:
        return key
    if key is None:
        raise of.SettingError(f"{path} holds {len(names)} arrays: {', '.join(names)}. Choose one by --data.key")
    near = get_close_matches(key, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise of.SettingError(f"{path} has no array {key!r}.{hint} It holds: {', '.join(names)}")


def _columns(path: Path, member: str | None) -> int:
    """Number of columns, from the header alone."""
    with reading(path, failed=NO_ARRAYS):
        if member is None:
            with path.open("rb") as stream:
                shape, dtype = _header(stream)
        else:
            with zipfile.ZipFile(path) as archive, archive.open(f"{member}.npy") as stream:
                shape, dtype = _header(stream)
    if len(shape) != 2 or shape[1] < 1:
        raise of.DataError(f"{path} must hold an array of shape (rows, columns); its shape is {shape}")
    if dtype.kind not in "fiub":
        raise of.DataError(f"{path} must hold real numbers; its dtype is {dtype}")
    return shape[1]


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Shape and dtype of an array in NumPy's format."""
    version = npy.read_magic(stream)
    shape, _, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(stream)
    return shape, dtype


def _table(path: Path, member: str | None) -> NDArray[np.float64]:
    """The array, once all its numbers are finite in float32."""
    with reading(path):
        if member is None:
            table = np.load(path).astype(np.float64)
        else:
            with np.load(path) as archive:
                table = archive[member].astype(np.float64)
    wrong = np.flatnonzero(~(np.abs(table) <= LARGEST).all(axis=1))
    if len(wrong):
        raise of.DataError(
            f"{path} has numbers that are not finite, or too large for float32, in {_some('row', wrong.tolist())} "
            f"of {len(table)}, counted from 0. Leave these rows out, or fill them in"
        )
    return table


def _some(what: str, numbers: list[int]) -> str:
    """Such as "row 3", or the first few of many."""
    named = ", ".join(map(str, numbers[:SHOWN]))
    rest = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return f"{what}{'s' if len(numbers) > 1 else ''} {named}{rest}"
