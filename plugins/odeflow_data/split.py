"""Split: which rows of a table, or which series, train, validate and test."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

import odeflow as of

if TYPE_CHECKING:
    from odeflow_data.frame import Frame

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Split(of.OptionGroup):
    """Training, validation and test part of a file.

    Attributes:
        val: Fraction for validation, or a file of its own. With 0 validation repeats the training part.
        test: Fraction for testing, or a file of its own. With 0 there is no test.
        by: A column that decides the part. If it holds the words train, val and test, these name it; if it holds times
            or numbers, the last ones are for testing and those before them for validation.
        group: A column of groups, such as patients, each of which is in one part.
        seed: Seed of all random numbers.

    Raises:
        SettingError: An option is out of range.
    """

    val: float | str = 0.1
    test: float | str = 0.1
    by: str | None = None
    group: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        shares = [share for share in (self.val, self.test) if not isinstance(share, str)]
        if not (all(share >= 0 for share in shares) and sum(shares) < 1):
            raise of.SettingError(
                f"split: val and test must be at least 0 and leave a share to train on; got {self.val} and {self.test}"
            )
        if self.seed < 0:
            raise of.SettingError(f"split: seed must be at least 0; got {self.seed}")

    @property
    def columns(self) -> list[str]:
        """The columns of the file that decide."""
        return [name for name in (self.by, self.group) if name is not None]

    @property
    def files(self) -> dict[str, str]:
        """The parts that are files of their own, and their paths."""
        return {name: share for name, share in (("val", self.val), ("test", self.test)) if isinstance(share, str)}

    def parts(
        self,
        frame: "Frame",
        rows: NDArray[np.int64],
        whole: NDArray[np.int64] | None = None,
        order: NDArray[np.float64] | None = None,
    ) -> NDArray[np.int64]:
        """The part of each row, by its number in `PARTS`.

        Args:
            frame: The file.
            rows: (N,), the rows of it that are divided.
            whole: (N,), numbers of what is in one part, such as series; by default each row is on its own.
            order: (N,), by what rows without groups are ordered if no column decides; by default at random.

        Returns:
            (N,).

        Raises:
            DataError: A column does not exist, or says nothing of a part, or several parts of one group.
        """
        codes = self._codes(frame, rows, whole)
        named = self._named(frame, rows)
        if named is None:
            places = self._order(frame, rows, codes, order)
            found = np.searchsorted(self.starts(places), places, side="right")[codes]
        else:
            found = named
        for numbers in [*([] if self.group is None else [codes]), *([] if whole is None else [whole])]:
            _, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
            wrong = np.flatnonzero(found != found[first][inverse])
            if len(wrong):
                place = int(rows[wrong[0]]) + 1
                other = int(rows[first[inverse[wrong[0]]]]) + 1
                raise of.DataError(
                    f"{frame.origin}: rows {other} and {place} belong together, but {' and '.join(self.columns)} put "
                    f"them into {PARTS[found[first[inverse[wrong[0]]]]]} and {PARTS[found[wrong[0]]]}"
                )
        return found

    def drawn(
        self,
        frame: "Frame",
        rows: NDArray[np.int64],
        count: int,
        generator: np.random.Generator,
        starts: NDArray[np.float64] | None = None,
    ) -> NDArray[np.int64]:
        """The part of each row of a piece of a file, of which the others are not known.

        A column names it, or orders the rows; groups are drawn by a hash of their names, other rows each on its own.

        Args:
            frame: The piece.
            rows: (N,), the rows of it that are divided.
            count: Number of all its rows.
            generator: Of the draws, a number for each row.
            starts: Where validation and test begin in the order of a column of times or numbers.

        Returns:
            (N,).

        Raises:
            DataError: A column names no part, or a cell is malformed.
        """
        numbers = generator.random(count)[rows]
        named = self._named(frame, rows)
        if named is not None:
            return named
        if starts is not None:
            return np.searchsorted(starts, self.placed(frame, rows), side="right")
        if self.group is not None:
            codes, names = frame.classes(self.group)
            numbers = np.array([_hashed(name, self.seed) for name in names])[codes[rows]]
        val, test = (0.0 if isinstance(share, str) else share for share in (self.val, self.test))
        return np.searchsorted([1 - val - test, 1 - test], numbers, side="right")

    def placed(self, frame: "Frame", rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """(N,), the times or numbers of the column that orders rows."""
        return frame.times(self.by or "", "seconds").values[rows]

    def starts(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """(2,), from which of some numbers (N,) on there is validation and test; equal ones are in one part."""
        sizes = [0 if isinstance(share, str) else round(share * len(places)) for share in (self.val, self.test)]
        ordered = np.sort(places)
        first = np.searchsorted(ordered, ordered)
        begins = [ordered[first >= len(places) - size] for size in (sum(sizes), sizes[1])]
        return np.array([later[0] if len(later) else np.inf for later in begins])

    def check(self, origin: str, counts: Sequence[int], what: str) -> None:
        """Checks that no part is empty but those whose share is 0.

        Args:
            origin: The file.
            counts: The size of each part.
            what: What is counted, for the message.

        Raises:
            DataError: A part is empty.
        """
        shares = (1, self.val, self.test)
        if not all(count or share == 0 for count, share in zip(counts, shares, strict=True)):
            found = ", ".join(f"{count} {name}" for count, name in zip(counts, PARTS, strict=True))
            named = f"; where column {self.by!r} names the parts it must name all three" if self.by else ""
            raise of.DataError(
                f"{origin} has too few {what}: {found}, but each part needs one. Give more {what}, or other shares by "
                f"--data.split.val and --data.split.test, 0 for none, or name files for them{named}"
            )

    def refuse_test(self, origin: str, what: str) -> NoReturn:
        """Raises, since the test part is empty.

        Args:
            origin: The file.
            what: What rows are, for the message.

        Raises:
            DataError: Always.
        """
        raise of.DataError(
            f"{origin}: no {what} were kept for a test, so that there is nothing to test. Set a share or a file by "
            "--data.split.test"
        )

    def summary(self, counts: Sequence[int], what: str, order: str | None = None) -> str:
        """The size of each part and how it was found, for a summary line.

        Args:
            counts: The size of each part.
            what: What is counted.
            order: By what rows are divided if no column is.
        """
        verbs = (("train", "train"), ("val", "validate"), ("test", "test"))
        places = {name: f" in {path}" for name, path in self.files.items()}
        sizes = [
            f"{count:,} {what} {verb}{places.get(name, '')}"
            for count, (name, verb) in zip(counts, verbs, strict=True)
            if count
        ]
        sizes += [] if counts[1] else [f"validation repeats the training {what}"]
        how = self.by or order
        if not any(
            count for count, name in zip(counts, PARTS, strict=True) if name != "train" and name not in self.files
        ):
            return ", ".join(sizes)
        kept = f", by groups of {self.group}" if self.group else ""
        return f"{', '.join(sizes)}, split {f'by {how}' if how else f'at random by seed {self.seed}'}{kept}"

    def _codes(self, frame: "Frame", rows: NDArray[np.int64], whole: NDArray[np.int64] | None) -> NDArray[np.int64]:
        """(N,), numbers from 0 on of what is in one part."""
        if self.group is not None:
            frame.require([self.group], "split.group")
            whole = frame.classes(self.group).codes[rows]
        return np.arange(len(rows)) if whole is None else np.unique(whole, return_inverse=True)[1]

    def _named(self, frame: "Frame", rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """(N,), the part that the column names; None if it names none."""
        if self.by is None:
            return None
        frame.require([self.by], "split.by")
        if not frame.is_text(self.by):
            return None
        cells = frame.column(self.by, rows).to_list()
        wrong = next((place for place, cell in enumerate(cells) if cell not in PARTS), None)
        if wrong is not None:
            raise of.DataError(
                f"{frame.origin}: column {self.by!r} must say train, val or test in each row, or hold times or numbers "
                f"by which rows are ordered; row {frame.row(int(rows[wrong]))} holds {cells[wrong] or 'nothing'}"
            )
        number = {name: part for part, name in enumerate(PARTS)}
        return np.array([number[cell] for cell in cells], np.int64)

    def _order(
        self,
        frame: "Frame",
        rows: NDArray[np.int64],
        codes: NDArray[np.int64],
        order: NDArray[np.float64] | None,
    ) -> NDArray[np.float64]:
        """(M,), the places of groups in a row that is cut into parts; in time, that of their first row."""
        count = int(codes.max()) + 1
        if self.by is not None:
            order = self.placed(frame, rows)
        if order is None or (self.group is not None and self.by is None):
            shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))
            return shuffled.argsort().double().numpy()
        first = np.full(count, np.inf)
        np.minimum.at(first, codes, order)
        return first


def _hashed(name: str, seed: int) -> float:
    """A number in [0, 1) that depends on a name and a seed alone."""
    digest = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=7).digest()
    return int.from_bytes(digest) / 256**7
