"""Power: a household's electric power consumption, minute by minute, as a table for density estimation."""

import io
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

import odeflow as of
from odeflow_data.archive import check_unpacked, checksum, load, reading
from odeflow_data.download import fetch, keep, published_text
from odeflow_data.rows import RowData, batches

URL = "https://archive.ics.uci.edu/static/public/235/individual+household+electric+power+consumption.zip"
NAME = "household_power_consumption"
SHA256 = "c197eccc408c80b892c08c7a12bdf0774465afd40a2f1e2daafcb6b484eeb5ac"
"""Of the text with Unix line ends, in which copies differ; as UCI gives it, with \\r\\n, it has 4259c9d7…0894b7."""
KEPT = "c999fbf83cffe934762f711fd41ef18dc8ce47683cf3b416fb9d24267f5ce9b0"
"""Of the table that the text gives."""
VALID, TRAIN = 2_049_280, 1_659_917
"""Number of minutes without missing values, and of those of them that train."""
FIELDS = ("Global_active_power", "Voltage", *(f"Sub_metering_{number}" for number in (1, 2, 3)))
"""The columns of the table, beside the time."""


class Power(RowData):
    """POWER: 2,049,280 minutes × 6 quantities, of which 1,659,917 train, 184,435 validate and 204,928 test.

    The quantities are the active power (kW), the voltage (V), three sub-meterings (Wh) and the time of day (minutes),
    standardised by mean and standard deviation of training and validation together. As for MAF, minutes with missing
    values are left out, as are date, reactive power and intensity; the others are shuffled and spread by uniform
    noise as wide as the resolution of each quantity, all from NumPy's `RandomState(42)`. MAF's code finds the noise
    on the time in its table, with no word on how it was drawn; ours is drawn last, which leaves all else as it was.

    `root` may hold the published zip or the text inside it; otherwise the zip is downloaded and checked. The parsed
    table is cached there as `.npz`, if it is writable.

    Source: Hebrail & Berard (2006), "Individual Household Electric Power Consumption", UCI, doi:10.24432/C58K54,
        CC BY 4.0. Preprocessing: Papamakarios, Pavlakou & Murray (2017), "Masked Autoregressive Flow for Density
        Estimation", appendix, and `datasets/power.py` of https://github.com/gpapamak/maf.

    Args:
        root: Folder of `household_power_consumption.zip`, `.txt` or `.npz`.
        batch_size: Number of rows in a batch, in training and evaluation; the last one may be smaller.
        limit: Number of training rows, drawn by `seed`; by default all.
        seed: Seed of the choice of training rows; the published split is fixed.
        url: Where the zip is downloaded from.

    Raises:
        SettingError: `limit` is not among the possible numbers.
    """

    standardises = True

    def __init__(
        self,
        root: str = "~/.cache/odeflow/power",
        batch_size: int = 10_000,
        limit: int | None = None,
        seed: int = 0,
        url: str = URL,
    ) -> None:
        super().__init__()
        of.check_least(self, 1, batch_size=batch_size)
        of.check_least(self, 0, seed=seed)
        of.check_range(self, f"[1, {TRAIN}]", limit=limit)
        self.dim = 1 + len(FIELDS)
        self.root, self.url = Path(root).expanduser(), url
        self.batch_size, self.limit, self.seed = batch_size, limit, seed

    def prepare_data(self) -> None:
        present = any((self.root / f"{NAME}.{end}").is_file() for end in ("zip", "txt"))
        if not present and _cached(self.root) is None:
            _download(self.url, self.root)

    def setup(self, stage: str) -> None:
        rows = spread(read(self.root))
        self.units = self.units or fitted(rows)
        x = self.units.standardised(torch.from_numpy(rows)).float()
        size = shares(len(x))
        train, self.val, self.test = x.split([len(x) - size["val"] - size["test"], size["val"], size["test"]])
        chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(self.seed))
        self.train = train if self.limit is None else train[chosen[: self.limit]]

    def training_part(self) -> Tensor:
        return self.train

    def train_dataloader(self) -> DataLoader[Tensor]:
        return batches(self.train, batch_size=self.batch_size, shuffle=True)


def shares(count: int) -> dict[str, int]:
    """Number of rows for the test, the last tenth, and for validation, the last tenth of the others."""
    test = int(0.1 * count)
    return {"test": test, "val": int(0.1 * (count - test))}


def spread(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows shuffled and spread by noise: training, validation and test in this order.

    Args:
        table: (N, 6), as measured.
    """
    random = np.random.RandomState(42)
    count = len(table)
    x = table[random.permutation(count)]  # the order into which `shuffle` brings the rows, faster
    x[:, 1] += 0.01 * random.rand(count)  # the order of the draws is MAF's
    x[:, 0] += 0.001 * random.rand(count)
    x[:, 2:5] += random.rand(count, 3)
    x[:, 5] += random.rand(count)
    return x


def fitted(rows: NDArray[np.float64]) -> of.Units:
    """Units in which training and validation together, of rows as of `spread`, have mean 0 and standard deviation 1."""
    known = rows[: len(rows) - shares(len(rows))["test"]]
    return of.Units(tuple(known.mean(axis=0).tolist()), tuple(known.std(axis=0).tolist()))


def read(root: Path) -> NDArray[np.float64]:
    """The minutes without missing values, in the order of time.

    Args:
        root: Folder of the zip, the text, or what an earlier call kept of them.

    Returns:
        (N, 6): active power, voltage, three sub-meterings and the minute of the day.

    Raises:
        DataError: There is no file, it cannot be unpacked, or its contents are not the published ones.
    """
    cached = _cached(root)
    if cached is not None:
        return cached
    packed, plain = root / f"{NAME}.zip", root / f"{NAME}.txt"
    source = plain if plain.is_file() else packed
    if not source.is_file():
        raise of.DataError(f"{root} has neither {packed.name} nor {plain.name}; it must hold UCI's data set")
    with reading(source, "Delete it to download it again", "cannot be unpacked"):
        text = plain.read_bytes() if source == plain else _unpacked(packed)
    table = parse(published_text(text, SHA256, f"{NAME}.txt from {source}"))
    with suppress(of.DataError):  # a folder that cannot be written only costs the time of reading again
        keep(root, f"{NAME}.npz", lambda part: np.savez(part, table=table))
    return table


def parse(text: bytes) -> NDArray[np.float64]:
    """The quantities in lines `date;hh:mm:ss;` and seven numbers, or `?` for all, below a line of titles.

    Args:
        text: The published text, whose form its checksum warrants, with Unix line ends.

    Returns:
        (N, 6), the minute of the day last.
    """
    import polars as pl

    dtypes = {"Time": pl.String} | dict.fromkeys(FIELDS, pl.Float64)
    table = pl.read_csv(text, separator=";", null_values="?", columns=[*dtypes], schema_overrides=dtypes).drop_nulls()
    hour, minute = (pl.col("Time").str.slice(start, 2).cast(pl.Float64) for start in (0, 3))
    return table.select(*FIELDS, 60 * hour + minute).to_numpy(order="c")


def _cached(root: Path) -> NDArray[np.float64] | None:
    """What an earlier reading kept, if it is what the published text gives."""
    try:
        table = load(root / f"{NAME}.npz", ["table"], [], "")["table"]
    except of.DataError:
        return None
    return table if checksum([table]) == KEPT else None


def _unpacked(file: Path | io.BytesIO) -> bytes:
    with zipfile.ZipFile(file) as archive:
        check_unpacked(file, archive.getinfo(f"{NAME}.txt").file_size)
        return archive.read(f"{NAME}.txt")


def _download(url: str, root: Path) -> None:
    """Fetches the zip, and keeps it once the text in it is the published one."""
    packed = fetch(url, root, f"{NAME}.zip", "Put it there")
    with reading(url, failed=f"is not the zip of {NAME}.txt"):
        text = _unpacked(packed)
    published_text(text, SHA256, f"{NAME}.txt from {url}")
    keep(root, f"{NAME}.zip", lambda part: part.write_bytes(packed.getvalue()))
