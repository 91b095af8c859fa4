"""MNIST: the published files read, split, checked, downloaded, and moved about."""

import gzip
import hashlib
import json
import logging
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pooch
import pytest
import torch
from torch import Tensor

import odeflow as of
from odeflow.plugin import registry
from odeflow_data import MNIST, augmentation, mnist
from odeflow_data.idx import Published

NAMES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
MEAN, STD = 0.1307, 0.3081
DARK = -MEAN / STD
random_affine = partial(augmentation.random_affine, dark=DARK)


def idx(array: np.ndarray) -> bytes:
    """An array of bytes in the IDX format: magic number, sizes, values."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def small_files(train: int = 30, test: int = 8) -> dict[str, bytes]:
    """The four files with few images of noise, decompressed."""
    random = np.random.default_rng(0)
    arrays = [array for n in (train, test) for array in (random.integers(0, 256, (n, 28, 28)), np.arange(n) % 10)]
    return dict(zip(NAMES, map(idx, arrays), strict=True))


def write(root: Path, files: dict[str, bytes]) -> Path:
    root.mkdir(exist_ok=True)
    for name, contents in files.items():
        (root / name).write_bytes(contents)
    return root


def ready(root: Path, stage: str = "fit", **settings: int | bool) -> MNIST:
    data = MNIST(str(root), **{"val_size": 10, "batch_size": 4} | settings)
    data.prepare_data()
    data.setup(stage)
    return data


def as_published(name: str) -> Published:
    """A data set, of which the small files count as the published ones."""
    real = mnist.PUBLISHED[name]
    files = [gzip.compress(each, mtime=0) if real.packed else each for each in small_files().values()]
    return real._replace(checksums=tuple(hashlib.md5(each).hexdigest() for each in files))


def pairs(images: Tensor, labels: Tensor) -> Counter[tuple[bytes, int]]:
    """How often each labelled image occurs, in grey levels 0..255."""
    levels = ((images * STD + MEAN) * 255).round().to(torch.uint8).flatten(1).numpy()
    return Counter(zip(map(bytes, levels), labels.tolist(), strict=True))


def published_pairs(contents: dict[str, bytes], part: str) -> Counter[tuple[bytes, int]]:
    """The same, straight from the contents of the files."""
    images, labels = contents[f"{part}-images-idx3-ubyte"][16:], contents[f"{part}-labels-idx1-ubyte"][8:]
    return Counter((images[784 * i : 784 * (i + 1)], label) for i, label in enumerate(labels))


# The published files


@pytest.fixture(scope="module")
def published(shared: Path) -> dict[str, bytes]:
    """The decompressed contents of the four published files."""
    return {name: gzip.decompress((shared / f"data/mnist/{name}.gz").read_bytes()) for name in NAMES}


@pytest.fixture(scope="module")
def real(shared: Path) -> MNIST:
    data = ready(shared / "data/mnist", val_size=5000)
    data.setup("test")
    return data


def test_checksums_are_those_of_the_published_files(published: dict[str, bytes]) -> None:
    """The plugin's table holds the md5 of each decompressed file, and of no other."""
    found = tuple(hashlib.md5(contents).hexdigest() for contents in published.values())
    assert found == mnist.PUBLISHED["mnist"].checksums


def test_the_published_split_is_kept(real: MNIST, published: dict[str, bytes]) -> None:
    """55,000 + 5,000 images are the published training images, each once with its label; 10,000 are the test's."""
    assert [len(part) for part in (real.train, real.val, real.test)] == [55_000, 5_000, 10_000]
    assert pairs(*real.train[:]) + pairs(*real.val[:]) == published_pairs(published, "train")
    assert pairs(*real.test[:]) == published_pairs(published, "t10k")


def test_pixels_are_standardised(real: MNIST) -> None:
    """Training pixels have mean 0 and standard deviation 1 within 0.01."""
    images, _ = real.train[:]
    assert abs(images.mean().item()) < 1e-2
    assert abs(images.std().item() - 1) < 1e-2


def test_pixels_may_stay_as_they_are(real: MNIST) -> None:
    """Without standardising they are the bytes over 255, and outside of a moved image it is dark."""
    raw = ready(real.root, standardise=False)
    images, _ = raw.val[:]
    assert images.min() == 0
    assert images.max() == 1
    assert torch.equal((images * 255).round() / 255, images)


def test_validation_is_drawn_from_all_digits(real: MNIST) -> None:
    """Labels are 0..9 in every part, and no digit is rare in validation."""
    for part in (real.train, real.val, real.test):
        counts = part[:][1].bincount(minlength=real.num_classes)
        assert len(counts) == real.num_classes
        assert counts.min() > 0.08 * len(part)


def test_announced_sizes_are_those_of_the_batches(real: MNIST) -> None:
    """`shape`, `dim` and `num_classes`, known before the data are read, are what the batches show."""
    announced = MNIST("nowhere")
    loaders = (real.train_dataloader(), real.val_dataloader(), real.test_dataloader(), real.predict_dataloader())
    for loader in loaders:
        images, labels = next(iter(loader))
        assert images.shape[1:] == announced.shape == announced.input_shape == (1, 28, 28)
        assert images[0].numel() == announced.dim
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        assert labels.max() < announced.num_classes


# Reading and splitting, on small files


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of small files that count as the published ones; nothing is downloaded where they lie."""
    monkeypatch.setitem(mnist.PUBLISHED, "mnist", as_published("mnist"))
    monkeypatch.setattr(mnist, "download", lambda *_: pytest.fail("a download was attempted"))
    return write(tmp_path / "mnist", small_files())


def test_gzipped_and_plain_files_read_alike(root: Path) -> None:
    """A folder may hold each file gzipped or plain."""
    plain = [ready(root), ready(root, "test")]
    for name in NAMES[::3]:
        (root / f"{name}.gz").write_bytes(gzip.compress((root / name).read_bytes()))
        (root / name).unlink()
    packed = [ready(root), ready(root, "test")]
    assert torch.equal(plain[0].train[:][0], packed[0].train[:][0])
    assert torch.equal(plain[1].test[:][1], packed[1].test[:][1])


def test_pixels_and_labels_keep_their_places(root: Path) -> None:
    """Every part holds the files' images upright, each with its own label."""
    train, test = ready(root), ready(root, "test")
    assert pairs(*train.train[:]) + pairs(*train.val[:]) == published_pairs(small_files(), "train")
    assert pairs(*test.test[:]) == published_pairs(small_files(), "t10k")


def test_val_size_images_are_kept_from_training(root: Path) -> None:
    """Validation takes val_size training images, and training has the others."""
    for val_size in (1, 12, 29):
        data = ready(root, val_size=val_size)
        assert [len(data.train), len(data.val)] == [30 - val_size, val_size]
        assert not pairs(*data.train[:]) & pairs(*data.val[:])


def test_one_seed_gives_one_split(root: Path) -> None:
    """The split depends on the seed alone, not on the global generator; another seed gives another."""
    splits = []
    for global_seed, seed in [(0, 0), (1, 0), (1, 1)]:
        torch.manual_seed(global_seed)
        splits.append(ready(root, seed=seed).val[:])
    assert torch.equal(splits[0][0], splits[1][0])
    assert torch.equal(splits[0][1], splits[1][1])
    assert pairs(*splits[0]) != pairs(*splits[2])


def test_validating_alone_sees_the_same_images(root: Path) -> None:
    """The stages fit and validate hold the same validation images, test and predict the same test images."""
    assert torch.equal(ready(root, "fit").val[:][0], ready(root, "validate").val[:][0])
    assert torch.equal(ready(root, "test").test[:][0], ready(root, "predict").test[:][0])


def test_training_batches_are_full_and_shuffled(root: Path) -> None:
    """Every training batch holds `batch_size` images, in another order each epoch; others lose no image."""
    data = ready(root, batch_size=8)
    torch.manual_seed(0)
    loader = data.train_dataloader()
    first, second = list(loader), list(loader)
    assert [len(images) for images, _ in first] == [8, 8]
    assert not torch.equal(first[0][0], second[0][0])
    assert torch.equal(torch.cat([images for images, _ in data.val_dataloader()]), data.val[:][0])


@pytest.mark.parametrize("val_size", [-1, 0, 60_000])
def test_wrong_val_size_is_refused(val_size: int) -> None:
    """A validation part that is empty or leaves nothing to train on is an error that names the number."""
    with pytest.raises(of.SettingError, match=rf"val_size must lie in \[1, 59999\]; got {val_size}"):
        MNIST(val_size=val_size)


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`~` in root is the user's home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setitem(mnist.PUBLISHED, "mnist", as_published("mnist"))
    write(tmp_path / "digits", small_files())
    assert len(ready(Path("~/digits"), "test").test) == 8


def test_spec_is_plain_and_rebuilds_the_data(root: Path) -> None:
    """The spec survives JSON and builds data with the same split and batches."""
    data = ready(root, val_size=7, batch_size=5, augment=False, seed=4)
    registry.discover()
    rebuilt = registry.build(json.loads(json.dumps(data.spec)))
    rebuilt.setup("fit")
    assert type(rebuilt) is MNIST
    assert rebuilt.spec == data.spec
    assert not rebuilt.augment
    assert torch.equal(rebuilt.val[:][0], data.val[:][0])
    assert len(next(iter(rebuilt.train_dataloader()))[0]) == 5


# Files that are not what they should be


def bad_deflate(packed: bytes) -> bytes:
    """A gzip file whose first block is of a type that does not exist."""
    return packed[:10] + bytes([packed[10] | 0b110]) + packed[11:]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a web page": lambda _: b"<html>Please log in</html>",
    "cut": lambda packed: packed[: len(packed) // 2],
    "cut in its header": lambda packed: packed[:5],
    "wrong check value": lambda packed: packed[:-8] + bytes(8),
    "no deflate stream": bad_deflate,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_gzip_file_is_refused(root: Path, damage: Callable[[bytes], bytes]) -> None:
    """A .gz file that cannot be decompressed is an error that names it and says to delete it."""
    path = root / f"{NAMES[0]}.gz"
    path.write_bytes(damage(gzip.compress((root / NAMES[0]).read_bytes())))
    (root / NAMES[0]).unlink()
    with pytest.raises(of.DataError, match=rf"{re.escape(str(path))} cannot be decompressed: .+\. Delete it"):
        ready(root)


IMAGES = idx(np.zeros((30, 28, 28)))
FAULTS = {
    "truncated": (IMAGES[:-1], r"train-images.* 23536 bytes in all, but has 23535"),
    "too long": (IMAGES + b"0", r"train-images.* 23536 bytes in all, but has 23537"),
    "cut in its header": (IMAGES[:9], r"train-images.* 16 bytes in all, but has 9"),
    "of floats": (b"\x00\x00\x0d" + IMAGES[3:], "train-images.* is no IDX file of bytes: it begins with 00 00 0d 03"),
    "a picture": (b"\x89PNG\r\n\x1a\n", "train-images.* is no IDX file of bytes: it begins with 89 50 4e 47"),
    "empty": (b"", "train-images.* is no IDX file of bytes: it begins with nothing"),
    "of another size": (idx(np.zeros((30, 32, 32))), r"train-images.* is damaged or another file: md5 \w+, wanted"),
    "another picture": (idx(np.ones((30, 28, 28))), r"train-images.* is damaged or another file: .* Delete it"),
}


@pytest.mark.parametrize(("contents", "message"), FAULTS.values(), ids=FAULTS)
def test_a_file_of_the_wrong_form_is_refused(root: Path, contents: bytes, message: str) -> None:
    """A file of training images that is no such thing is an error that says what was found in it."""
    (root / NAMES[0]).write_bytes(contents)
    with pytest.raises(of.DataError, match=message):
        ready(root)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """Reading without the files says which is missing, and where it was looked for."""
    with pytest.raises(of.DataError, match=rf"{re.escape(str(tmp_path))} has neither train-images-idx3-ubyte nor"):
        MNIST(str(tmp_path)).setup("fit")


def test_more_validation_than_images_is_refused(root: Path) -> None:
    """Files with too few images for the validation part are an error, not an empty training part."""
    with pytest.raises(of.DataError, match=r"30 training images.*val_size = 30"):
        ready(root, val_size=30)


# Downloading, from a server on this machine


@pytest.fixture
def publisher(server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A server of the four small files, whose checksums count as the published ones."""
    monkeypatch.setitem(mnist.PUBLISHED, "mnist", as_published("mnist"))
    server.files = {f"{name}.gz": gzip.compress(contents) for name, contents in small_files().items()}
    return server


def holdings(root: Path) -> list[str]:
    """All that is in a folder and below."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.mark.parametrize("slash", ["", "/"])
def test_missing_files_are_downloaded_once(tmp_path: Path, publisher: Any, slash: str) -> None:
    """Each file is asked for once and kept under its own name, and nothing else is; then no more is asked for."""
    root = tmp_path / "new" / "mnist"
    data = MNIST(str(root), val_size=10, url=publisher.url + slash)
    data.prepare_data()
    data.prepare_data()
    MNIST(str(root), url=publisher.url).prepare_data()
    assert publisher.requests == [f"{name}.gz" for name in NAMES]
    assert holdings(root) == sorted(NAMES)
    data.setup("fit")
    assert pairs(*data.train[:]) + pairs(*data.val[:]) == published_pairs(small_files(), "train")


def test_only_what_is_missing_is_downloaded(tmp_path: Path, publisher: Any) -> None:
    """A file that is there, plain or gzipped, is neither asked for nor changed."""
    (tmp_path / NAMES[0]).write_bytes(b"mine")
    (tmp_path / f"{NAMES[2]}.gz").write_bytes(b"mine, too")
    MNIST(str(tmp_path), url=publisher.url).prepare_data()
    assert publisher.requests == [f"{NAMES[1]}.gz", f"{NAMES[3]}.gz"]
    assert (tmp_path / NAMES[0]).read_bytes() == b"mine"
    assert (tmp_path / f"{NAMES[2]}.gz").read_bytes() == b"mine, too"


def test_a_wrong_checksum_is_refused(tmp_path: Path, publisher: Any) -> None:
    """A file with other contents than the published ones is not kept; the error names both checksums."""
    other = idx(np.ones((30, 28, 28)))
    publisher.files[f"{NAMES[0]}.gz"] = gzip.compress(other)
    found, wanted = hashlib.md5(other).hexdigest(), mnist.PUBLISHED["mnist"].checksum(NAMES[0])
    with pytest.raises(of.DataError, match=f"{NAMES[0]} from {publisher.url}.* md5 {found}, wanted {wanted}"):
        MNIST(str(tmp_path), url=publisher.url).prepare_data()
    assert holdings(tmp_path) == []


def test_a_file_the_server_lacks_is_an_error_with_advice(tmp_path: Path, publisher: Any) -> None:
    """A 404 says what could not be had, from where and why, and how to do without the download."""
    del publisher.files[f"{NAMES[1]}.gz"]
    advice = f"{publisher.url}.*404.*Put the four IDX files there.*--data.root"
    with pytest.raises(of.DataError, match=advice) as caught:
        MNIST(str(tmp_path), url=publisher.url).prepare_data()
    assert NAMES[1] in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert holdings(tmp_path) == [NAMES[0]]


def test_no_server_is_an_error_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a connection the error gives the same advice."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(of.DataError, match=r"cannot be downloaded.*Put the four IDX files there"):
        MNIST(str(tmp_path), url=f"http://127.0.0.1:{port}/mnist").prepare_data()
    assert holdings(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_an_error_with_advice(tmp_path: Path, publisher: Any) -> None:
    """A root below a file is the same kind of error."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(of.DataError, match=r"cannot be downloaded.*file.*--data.root"):
        MNIST(str(tmp_path / "file" / "mnist"), url=publisher.url).prepare_data()


def test_a_file_that_cannot_be_kept_is_an_error_with_advice(tmp_path: Path, publisher: Any) -> None:
    """Where a downloaded file cannot get its name, the error says why and to choose another folder."""
    (tmp_path / NAMES[0]).mkdir()
    with pytest.raises(of.DataError, match=rf"{NAMES[0]} cannot be kept in {tmp_path}: .+directory.+--data.root"):
        MNIST(str(tmp_path), url=publisher.url).prepare_data()
    assert holdings(tmp_path) == [NAMES[0]]


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_download_that_is_no_gzip_file_is_refused(
    tmp_path: Path, publisher: Any, damage: Callable[[bytes], bytes]
) -> None:
    """What cannot be decompressed is not kept; the error names the address it came from."""
    name = f"{NAMES[0]}.gz"
    publisher.files[name] = damage(publisher.files[name])
    with pytest.raises(of.DataError, match=f"{publisher.url}/{name} is not a gzip file: .+"):
        MNIST(str(tmp_path), url=publisher.url).prepare_data()
    assert holdings(tmp_path) == []


def test_a_run_stopped_in_the_download_leaves_no_half(tmp_path: Path, publisher: Any) -> None:
    """Ctrl-C while a file comes in leaves nothing under its name, and the next run downloads it."""
    main, stopped = threading.get_ident(), threading.Event()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs are not given

    def interrupt() -> None:
        signal.pthread_kill(main, signal.SIGINT)
        stopped.wait(10)

    publisher.half_way = interrupt
    data = MNIST(str(tmp_path), val_size=10, url=publisher.url)
    with pytest.raises(KeyboardInterrupt):
        data.prepare_data()
    stopped.set()
    assert holdings(tmp_path) == []
    publisher.half_way = lambda: None
    data.prepare_data()
    data.setup("fit")


def test_a_run_stopped_in_writing_leaves_no_half(
    tmp_path: Path, publisher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C just before a file gets its name leaves nothing under it, and the next run downloads it."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    data = MNIST(str(tmp_path), val_size=10, url=publisher.url)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            data.prepare_data()
    assert not set(holdings(tmp_path)) & set(NAMES)
    data.prepare_data()
    data.setup("fit")


def test_two_runs_may_download_at_once(tmp_path: Path, publisher: Any) -> None:
    """Two runs that begin together on an empty folder both come to whole files."""
    together = threading.Barrier(2, timeout=10)
    publisher.half_way = together.wait
    problems: list[Exception] = []

    def run() -> None:
        try:
            MNIST(str(tmp_path), url=publisher.url).prepare_data()
        except Exception as problem:
            problems.append(problem)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert {name: (tmp_path / name).read_bytes() for name in holdings(tmp_path)} == small_files()


def test_downloading_is_silent(tmp_path: Path, publisher: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """A download prints nothing, and none of pooch's advice to note down a checksum gets out."""
    records: list[logging.LogRecord] = []
    listener = logging.Handler()
    listener.emit = records.append  # pooch's own handler prints where this one listens
    pooch.get_logger().addHandler(listener)
    MNIST(str(tmp_path), url=publisher.url).prepare_data()
    pooch.get_logger().removeHandler(listener)
    assert [record.getMessage() for record in records] == []
    assert capfd.readouterr() == ("", "")


# Data sets in MNIST's place


@pytest.mark.parametrize("name", ["fashion_mnist", "kmnist"])
def test_others_are_checked_and_kept_as_they_are_published(
    tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Their checksums are of the gzipped files, which are kept, and read before decompressed ones."""
    monkeypatch.setitem(mnist.PUBLISHED, name, as_published(name))
    server.files = {f"{each}.gz": gzip.compress(contents, mtime=0) for each, contents in small_files().items()}
    data = ready(tmp_path, name=name, url=server.url)
    assert holdings(tmp_path) == sorted(server.files)
    assert data.units.classes == mnist.PUBLISHED[name].classes
    torch.testing.assert_close(data.train[:][0].mean(), torch.tensor(0.0), rtol=0, atol=1e-5)
    torch.testing.assert_close(data.train[:][0].std(correction=0), torch.tensor(1.0))
    (tmp_path / NAMES[0]).write_bytes(b"another")
    assert torch.equal(ready(tmp_path, name=name).train[:][0], data.train[:][0])
    other = gzip.compress(small_files()[NAMES[0]], mtime=1)
    (tmp_path / f"{NAMES[0]}.gz").write_bytes(other)
    with pytest.raises(of.DataError, match=rf"{NAMES[0]}.gz is damaged or another file: md5 \w+, wanted"):
        ready(tmp_path, name=name)
    (tmp_path / f"{NAMES[0]}.gz").unlink()
    (tmp_path / NAMES[0]).write_bytes(small_files()[NAMES[0]])
    with pytest.raises(
        of.DataError, match=rf"{NAMES[0]} cannot be verified: the published checksum is of {NAMES[0]}.gz"
    ):
        ready(tmp_path, name=name)


def test_a_changed_download_is_not_kept(tmp_path: Path, server: Any) -> None:
    """A gzipped file with another checksum is an error that names both."""
    server.files = {f"{NAMES[0]}.gz": gzip.compress(small_files()[NAMES[0]])}
    with pytest.raises(of.DataError, match=rf"{NAMES[0]}.gz from .* md5 \w+, wanted 8d4fb7e6c68d591d4c3dfef9ec88bf0d"):
        MNIST(str(tmp_path), name="fashion_mnist", url=server.url).prepare_data()
    assert holdings(tmp_path) == []


@pytest.mark.filterwarnings("ignore:.*not verified")
def test_any_idx_files_may_be_read(tmp_path: Path) -> None:
    """Without `verify` sizes and classes are those of the files, of any size, and there is a warning."""
    random = np.random.default_rng(0)
    images = [idx(random.integers(0, 256, (count, 20, 24))) for count in (30, 8)]
    labels = [idx(np.arange(count) % 26) for count in (30, 8)]
    write(tmp_path, dict(zip(NAMES, [images[0], labels[0], images[1], labels[1]], strict=True)))
    data = ready(tmp_path, verify=False)
    assert (data.shape, data.dim, data.num_classes) == ((1, 20, 24), 480, 26)
    assert data.train[:][0].shape == (20, 1, 20, 24)
    torch.testing.assert_close(data.train[:][0].std(correction=0), torch.tensor(1.0))
    with pytest.warns(UserWarning, match="the IDX files in .* are not verified, as verify is False"):
        ready(tmp_path, "test", verify=False)


def test_an_unknown_name_is_refused() -> None:
    """The message names those that are known."""
    with pytest.raises(of.SettingError, match="name must be 'mnist', 'fashion_mnist' or 'kmnist'; got 'emnist'"):
        MNIST(name="emnist")


# Random affine maps


def blob(count: int, width: float = 3.0, height: float = 3.0) -> Tensor:
    """Copies of one Gaussian spot in the middle of a dark image, (count, 1, 28, 28)."""
    at = torch.arange(28) - 13.5
    spot = torch.exp(-(at**2) / (2 * height**2))[:, None] * torch.exp(-(at**2) / (2 * width**2))
    return (spot + DARK).expand(count, 1, 28, 28)


def moments(images: Tensor) -> dict[str, Tensor]:
    """Brightness above the dark (sum), its centre (x, y) and its covariance (xx, xy, yy) for each image, in pixels."""
    light = images[:, 0] - DARK
    at = torch.arange(28) - 13.5

    def mean(value: Tensor) -> Tensor:
        return (light * value).sum((1, 2)) / light.sum((1, 2))

    x, y = mean(at.expand(28, 28)), mean(at[:, None].expand(28, 28))
    dx, dy = at - x[:, None, None], at[:, None] - y[:, None, None]
    return {"sum": light.sum((1, 2)), "x": x, "y": y, "xx": mean(dx * dx), "xy": mean(dx * dy), "yy": mean(dy * dy)}


ALONE = {"degrees": 0.0, "shift": 0.0, "scale": 0.0, "shear": 0.0}


@pytest.mark.parametrize(("shape", "dtype"), [((5, 1, 28, 28), torch.float32), ((3, 1, 8, 8), torch.float64)])
def test_moved_images_keep_shape_and_dtype(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """An affine map gives back the shape and dtype that it was given, and leaves its input alone."""
    images = torch.randn(shape, dtype=dtype)
    before = images.clone()
    moved = random_affine(images)
    assert moved.shape == images.shape
    assert moved.dtype == images.dtype
    assert torch.equal(images, before)


def test_no_range_moves_nothing() -> None:
    """With all ranges zero the map is the identity."""
    images = torch.randn(4, 1, 28, 28)
    torch.testing.assert_close(random_affine(images, **ALONE), images, rtol=0, atol=1e-4)


def test_what_comes_in_from_outside_is_dark() -> None:
    """Corners that a rotation brings in are of the background's value, and nothing is darker."""
    torch.manual_seed(0)
    bright = torch.full((64, 1, 28, 28), (1 - MEAN) / STD)
    moved = random_affine(bright, **ALONE | {"degrees": 45})
    corners = moved[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert moved.min().item() == pytest.approx(DARK, abs=1e-5)
    assert (corners - DARK).abs().amin(dim=0).max() < 1e-5
    assert moved[:, 0, 14, 14].min() == pytest.approx((1 - MEAN) / STD, abs=1e-5)


def test_the_background_stays_dark() -> None:
    """A dark image is moved onto itself."""
    dark = torch.full((16, 1, 28, 28), DARK)
    torch.testing.assert_close(random_affine(dark), dark, rtol=0, atol=1e-5)


def test_each_image_is_moved_by_itself() -> None:
    """Copies of one image in a batch come out all different."""
    torch.manual_seed(0)
    assert len(random_affine(blob(32)).unique(dim=0)) == 32


def test_one_seed_gives_one_map() -> None:
    """`torch.manual_seed` settles the maps; another seed gives others."""
    moved = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        moved.append(random_affine(blob(4)))
    assert torch.equal(moved[0], moved[1])
    assert not torch.equal(moved[0], moved[2])


def assert_fills(values: Tensor, low: float, high: float) -> None:
    """Values lie in [low, high] up to the error of interpolation, and come near both ends."""
    margin = 0.05 * (high - low)
    assert low - margin < values.min() < low + 2 * margin
    assert high - 2 * margin < values.max() < high + margin


def test_shifts_fill_their_range() -> None:
    """A shift moves the centre by up to ±2 pixels in x and in y, apart from each other, and changes no form."""
    torch.manual_seed(0)
    moved = moments(random_affine(blob(300), **ALONE | {"shift": 2}))
    assert_fills(moved["x"], -2, 2)
    assert_fills(moved["y"], -2, 2)
    assert torch.corrcoef(torch.stack([moved["x"], moved["y"]]))[0, 1].abs() < 0.2
    torch.testing.assert_close(moved["xx"], moved["yy"], rtol=0.05, atol=0)


def test_rotations_fill_their_range() -> None:
    """A rotation turns the long axis of a spot by up to ±10°, about the middle, and keeps the area."""
    torch.manual_seed(0)
    moved = moments(random_affine(blob(300, width=4, height=2), **ALONE | {"degrees": 10}))
    axis = torch.atan2(2 * moved["xy"], moved["xx"] - moved["yy"]) / 2
    assert_fills(axis.rad2deg(), -10, 10)
    torch.testing.assert_close(moved["sum"] / moved["sum"].mean(), torch.ones(300), rtol=0, atol=0.01)
    assert max(moved["x"].abs().max(), moved["y"].abs().max()) < 0.05


def test_scales_fill_their_range() -> None:
    """A change of scale makes lengths up to a tenth smaller or larger, alike in x and y."""
    torch.manual_seed(0)
    moved, still = moments(random_affine(blob(300), **ALONE | {"scale": 0.1})), moments(blob(1))
    assert_fills((moved["sum"] / still["sum"]).sqrt(), 1 / 1.1, 1 / 0.9)
    torch.testing.assert_close(moved["xx"], moved["yy"], rtol=1e-3, atol=0)


def test_shears_fill_their_range() -> None:
    """A shear slants the upright by up to ±5° and leaves the horizontal and the area."""
    torch.manual_seed(0)
    moved = moments(random_affine(blob(300), **ALONE | {"shear": 5}))
    assert_fills((moved["xy"] / moved["yy"]).atan().rad2deg(), -5, 5)
    torch.testing.assert_close(moved["yy"] / moved["yy"].mean(), torch.ones(300), rtol=0, atol=0.01)
    torch.testing.assert_close(moved["sum"] / moved["sum"].mean(), torch.ones(300), rtol=0, atol=0.01)


def test_rotations_of_wide_images_keep_their_form() -> None:
    """On images that are not square a rotation is one too: a round spot remains round."""
    torch.manual_seed(0)
    x, y = torch.arange(48.0) - 23.5, torch.arange(24.0) - 11.5
    spot = (torch.exp(-(x**2) / 18) * torch.exp(-(y**2) / 18)[:, None]).expand(50, 3, 24, 48)
    moved = augmentation.random_affine(spot, **ALONE | {"degrees": 45})
    torch.testing.assert_close(moved, spot, rtol=0, atol=0.03)


def test_flips_are_mirror_images() -> None:
    """Each image is mirrored left to right or left as it is, about half of them."""
    torch.manual_seed(0)
    images = torch.randn(200, 3, 4, 6)
    flipped = augmentation.random_flip(images)
    same = (flipped == images).flatten(1).all(1)
    assert ((flipped == images.flip(-1)).flatten(1).all(1) ^ same).all()
    assert 60 < same.sum() < 140


def test_a_rotation_and_a_shear_together_keep_the_area() -> None:
    """The maps are composed: of a rotation and a shear, which keep areas, comes a map that keeps areas."""
    torch.manual_seed(0)
    moved = moments(random_affine(blob(300, width=2, height=2), **ALONE | {"degrees": 60, "shear": 20}))
    torch.testing.assert_close(moved["sum"] / moved["sum"].mean(), torch.ones(300), rtol=0, atol=0.01)


def transferred(augment: bool, trainer: object) -> bool:
    """Whether a batch comes out moved; its labels never change."""
    data = MNIST("nowhere", augment=augment)
    data.trainer = trainer
    images, labels = blob(3), torch.arange(3)
    moved, kept = data.on_after_batch_transfer((images, labels), 0)
    assert torch.equal(kept, labels)
    return not torch.equal(moved, images)


def test_only_training_batches_are_moved() -> None:
    """Images are moved when the trainer trains, not when it validates, tests or predicts, nor without a trainer."""
    assert transferred(augment=True, trainer=SimpleNamespace(training=True))
    assert not transferred(augment=True, trainer=SimpleNamespace(training=False))
    assert not transferred(augment=True, trainer=None)


def test_augmentation_can_be_left_out() -> None:
    """With augment=False a training batch is passed on as it is."""
    assert not transferred(augment=False, trainer=SimpleNamespace(training=True))
