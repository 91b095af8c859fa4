"""PhysioNet2012: two days in intensive care, as measured, and whether the patient left the hospital alive."""

import io
import tarfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import odeflow as of
from odeflow_data.archive import checksum, load, reading, unzipped
from odeflow_data.download import fetch, keep, published_text
from odeflow_data.seen import Seen
from odeflow_data.series import Divisor, SeriesData, padded, ranges, scaled
from odeflow_data.shares import Shares

URL = "https://physionet.org/files/challenge-2012/1.0.0/"
ARCHIVE, OUTCOMES, CACHE = "set-a.tar.gz", "Outcomes-a.txt", "set-a.npz"
SHA256 = {
    ARCHIVE: "998cdda0813ade746f87a52bf195dea3e045de92a008fe921db65578f6df2848",
    OUTCOMES: "2613ea60ccda29f87571a7d6b09ad130858a8ccd66325bd073365925026883c2",
}
"""Of the stays' texts in the order of their names, since tars differ in their packing, and of the outcomes; both with
Unix line ends."""
KEPT = "7a36613facbe622e9440ac5515e98115d35b519e5ee04c8a134ba48eb496f9b0"
"""Of the stays that the texts give."""
STATIC = ("Age", "Gender", "Height", "ICUType", "Weight")
"""Recorded at admission, −1 if unknown; the weight may be measured again."""
FEATURES = (
    *STATIC,
    *("Albumin", "ALP", "ALT", "AST", "Bilirubin", "BUN", "Cholesterol", "Creatinine", "DiasABP", "FiO2", "GCS"),
    *("Glucose", "HCO3", "HCT", "HR", "K", "Lactate", "Mg", "MAP", "MechVent", "Na", "NIDiasABP", "NIMAP"),
    *("NISysABP", "PaCO2", "PaO2", "pH", "Platelets", "RespRate", "SaO2", "SysABP", "Temp", "TroponinI"),
    *("TroponinT", "Urine", "WBC"),
)
HOURS = 48
UNPACKED = 1 << 28
"""Number of bytes that the archive may unpack to; it has 42 million."""


@dataclass(frozen=True)
class Stays:
    """The measurements of all stays, in the order of stays and, within them, of time.

    Attributes:
        stay: (M,), number of the stay.
        minute: (M,), since admission.
        feature: (M,), number of the feature.
        value: (M,).
        death: (N,), whether the patient died in hospital.
    """

    stay: NDArray[np.int16]
    minute: NDArray[np.int16]
    feature: NDArray[np.int8]
    value: NDArray[np.float32]
    death: NDArray[np.int8]


class PhysioNet2012(SeriesData):
    """Set A of the challenge: 4,000 stays of 48 hours, 41 features, most of them missing at most times; 554 deaths.

    The features are Rubanova's: age, gender, height, type of unit and weight at admission, and 36 that are measured,
    one of them whether there is mechanical ventilation. Times are rounded to multiples of `quantisation`, and
    measurements of a feature that then coincide are averaged; the unit of time is 48 hours. Unknown values at
    admission, published as −1, are not observed. Each feature is scaled by its smallest value and its range over
    all stays to [0, 1]. Labels: 1 is death in hospital.

    Rubanova's code keeps the −1; divides by the largest value instead of the range (`divisor: largest`) and reports
    errors in these units; adds the 4,000 stays of set B unless it classifies; has another split, without validation;
    and extrapolates from the first half of the distinct times of a batch, here from the first 24 hours
    (`seen.share: 0.5`).

    Files that `root` lacks are downloaded and checked. The measurements are cached there as `.npz`, if it is writable.

    Source: Silva, Moody, Scott, Celi & Mark (2012), "Predicting In-Hospital Mortality of ICU Patients: The
        PhysioNet/Computing in Cardiology Challenge 2012", Computing in Cardiology 39, 245–248;
        https://physionet.org/content/challenge-2012/1.0.0/, ODC-By 1.0. Preprocessing: Rubanova, Chen & Duvenaud
        (2019), "Latent ODEs for Irregularly-Sampled Time Series"; `physionet.py` and `lib/parse_datasets.py` of
        https://github.com/YuliaRubanova/latent_ode.

    Args:
        root: Folder of `set-a.tar.gz` and `Outcomes-a.txt`.
        quantisation: Rounding of times, in hours; 1/60 is the resolution of the data.
        divisor: The divisor of the values.
        seen: The seen values and the targets.
        batch_size: Number of stays in a batch; the last one may be smaller.
        split: The fractions of the stays for validation and testing.
        url: Folder where missing files are downloaded from.

    Raises:
        SettingError: An option is out of range.
    """

    standardises = True

    def __init__(
        self,
        root: str = "~/.cache/odeflow/physionet2012",
        quantisation: float = 0.1,
        divisor: Divisor = "range",
        seen: Seen = Seen(share=1.0),
        batch_size: int = 50,
        split: Shares = Shares(val=0.05),
        url: str = URL,
    ) -> None:
        super().__init__(batch_size, seen, split.seed)
        of.check_range(self, f"(0, {HOURS}]", quantisation=quantisation)
        self.dim, self.num_classes = len(FEATURES), 2
        self.root, self.url = Path(root).expanduser(), url
        self.quantisation = quantisation
        self.divisor: Divisor = divisor
        self.split = split

    def prepare_data(self) -> None:
        if _cached(self.root) is None:
            for name in (ARCHIVE, OUTCOMES):
                if not (self.root / name).is_file():
                    _download(self.url, self.root, name)

    def setup(self, stage: str) -> None:
        stays = read(self.root)
        whole = quantised(stays, self.quantisation)
        self.units = self.units or ranges(whole, self.divisor, unit=HOURS)
        self.divide(scaled(whole, self.units), self.split, span=1.0)


def quantised(stays: Stays, hours: float) -> of.Series:
    """The stays as series: rounded times, in units of 48 hours, and the mean of coinciding measurements.

    Args:
        stays: The measurements.
        hours: Resolution of the times.
    """
    known = (stays.feature >= len(STATIC)) | (stays.value != -1)
    stay, feature, value = (part[known] for part in (stays.stay, stays.feature, stays.value))
    tick = np.round(stays.minute[known] / (60 * hours)).astype(np.int64)
    ticks = tick.max() + 1
    moment, row = np.unique(
        stay.astype(np.int64) * ticks + tick, return_inverse=True
    )  # the rows of the grids, stay after stay
    cell = row * len(FEATURES) + feature
    shape = (len(moment), len(FEATURES))
    count = np.bincount(cell, minlength=len(moment) * len(FEATURES)).reshape(shape)
    total = np.bincount(cell, value, minlength=len(moment) * len(FEATURES)).reshape(shape)
    offsets = np.searchsorted(moment // ticks, np.arange(len(stays.death) + 1))
    mean = total / np.maximum(count, 1)
    whole = padded((moment % ticks) * hours / HOURS, mean, count > 0, offsets)
    return whole._replace(label=torch.from_numpy(stays.death.astype(np.int64)))


def read(root: Path) -> Stays:
    """The measurements of all stays, ordered by the stays' numbers.

    Args:
        root: Folder of the published files, or of what an earlier call kept of them.

    Raises:
        DataError: A file is missing, cannot be unpacked, or its contents are not the published ones.
    """
    cached = _cached(root)
    if cached is not None:
        return cached
    contents: dict[str, bytes] = {}
    for name in (ARCHIVE, OUTCOMES):
        try:
            contents[name] = (root / name).read_bytes()
        except OSError as problem:
            raise of.DataError(f"{root} has no readable {name}; it must hold the challenge's: {problem}") from problem
    texts = _checked_texts(contents[ARCHIVE], str(root / ARCHIVE))
    stays = parse(texts, _outcomes(contents[OUTCOMES], str(root / OUTCOMES)))
    with suppress(of.DataError):  # a folder that cannot be written only costs the time of reading again
        keep(root, CACHE, lambda part: np.savez(part, **vars(stays)))
    return stays


def parse(texts: dict[str, bytes], outcomes: bytes) -> Stays:
    """The measurements in texts of lines `hh:mm,feature,value`, whose form their checksum warrants.

    Args:
        texts: Of each stay by its number, with Unix line ends and a line of titles.
        outcomes: Lines of the stay's number, five scores and whether the patient died, and a line of titles.
    """
    numbers = {name: number for number, name in enumerate(FEATURES)}
    stay: list[int] = []
    clock: list[str] = []
    feature: list[int] = []
    value: list[str] = []
    for number, name in enumerate(sorted(texts)):
        for line in texts[name].decode().split("\n")[1:]:
            time, _, rest = line.partition(",")
            what, _, measured = rest.partition(",")
            if what in numbers:  # not the stay's own number
                stay.append(number)
                clock.append(time)
                feature.append(numbers[what])
                value.append(measured)
    minutes = {time: 60 * int(time[:2]) + int(time[3:]) for time in set(clock)}
    died = {line.split(",")[0]: line.split(",")[5] for line in outcomes.decode().split("\n")[1:] if line}
    return Stays(
        np.array(stay, np.int16),
        np.array([minutes[time] for time in clock], np.int16),
        np.array(feature, np.int8),
        np.array(list(map(float, value)), np.float32),
        np.array([int(died[name]) for name in sorted(texts)], np.int8),
    )


def _cached(root: Path) -> Stays | None:
    """What an earlier reading kept, if it is what the published texts give."""
    try:
        stays = Stays(**load(root / CACHE, list(Stays.__annotations__), [], ""))
    except of.DataError:
        return None
    return stays if checksum(vars(stays).values()) == KEPT else None


def _checked_texts(packed: bytes, origin: str) -> dict[str, bytes]:
    """The text of each stay, if they are the published ones."""
    with (
        reading(origin, "Delete it to download it again", "cannot be unpacked"),
        tarfile.open(fileobj=io.BytesIO(unzipped(packed, UNPACKED, origin))) as archive,
    ):
        files = [(Path(each.name).stem, archive.extractfile(each)) for each in archive if each.isfile()]
        texts = {name: file.read().replace(b"\r", b"") for name, file in files if file is not None}
    joined = b"".join(texts[name] for name in sorted(texts))
    published_text(joined, SHA256[ARCHIVE], f"{ARCHIVE} from {origin}")
    return texts


def _outcomes(text: bytes, origin: str) -> bytes:
    return published_text(text, SHA256[OUTCOMES], f"{OUTCOMES} from {origin}")


def _download(url: str, root: Path, name: str) -> None:
    """Fetches a file, and keeps it once its contents are the published ones."""
    address = f"{url.rstrip('/')}/{name}"
    contents = fetch(address, root, name, f"Put {ARCHIVE} and {OUTCOMES} there").getvalue()
    if name == ARCHIVE:
        _checked_texts(contents, address)
    else:
        _outcomes(contents, address)
    keep(root, name, lambda part: part.write_bytes(contents))
