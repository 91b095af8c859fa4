"""Laws of one's own images: folders and arrays of any size, read alike by the model that was trained on them."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import odeflow as of
from odeflow.plugin import registry
from odeflow_data import Images
from odeflow_data.pixels import channel_moments
from odeflow_data.split import Split

COUNTS = {"cat": 10, "dog": 20, "owl": 40}
SIZE = (6, 9)


def noise(seed: int, shape: tuple[int, ...] = (*SIZE, 3)) -> NDArray[np.uint8]:
    """Random bytes."""
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def write(file: Path, pixels: NDArray[np.uint8]) -> None:
    """One image, by the suffix of its name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def folder(root: Path, counts: dict[str, int] = COUNTS, first: int = 0) -> Path:
    """A folder for each class, with images of noise, all different."""
    seed = first
    for name, count in counts.items():
        for number in range(count):
            write(root / name / f"{number:02}.png", noise(seed))
            seed += 1
    return root


def ready(source: Any, stage: str = "fit", **options: Any) -> Images:
    data = Images(source, **options)
    data.setup(stage)
    return data


def pairs(loader: Any) -> Counter[tuple[bytes, int]]:
    """How often each image occurs with each label."""
    return Counter(
        (image.numpy().tobytes(), label)
        for x, labels in loader
        for image, label in zip(x, labels.tolist(), strict=True)
    )


def everything(data: Images) -> Counter[tuple[bytes, int]]:
    return pairs(data.train_dataloader()) + pairs(data.val_dataloader()) + pairs(data.test_dataloader())


def stored(data: Images, source: Path) -> Images:
    """The data that a checkpoint of these stores, on another source."""
    registry.discover()
    spec = json.loads(json.dumps(data.spec))
    later = registry.build(spec | {"init_args": spec["init_args"] | {"path": str(source)}})
    assert isinstance(later, Images)
    return later


# Folders


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seventy RGB images in three classes; not to be written to."""
    return folder(tmp_path_factory.mktemp("pets"))


def test_all_images_are_read_once(pets: Path) -> None:
    """Training, validation and test together are all images, each with the class of its folder."""
    data = ready(pets, standardise=False)
    assert data.class_names == ("cat", "dog", "owl")
    assert (data.shape, data.dim, data.num_classes) == ((3, *SIZE), 162, 3)
    wanted: Counter[tuple[bytes, int]] = Counter()
    for label, name in enumerate(COUNTS):
        for file in (pets / name).iterdir():
            pixels = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float() / 255
            wanted[pixels.contiguous().numpy().tobytes(), label] += 1
    assert everything(data) == wanted


def test_each_class_is_split_in_the_same_shares(pets: Path) -> None:
    """Every part has each class in its share; one seed gives one split, another seed another one."""
    data = ready(pets, split=Split(val=0.2, test=0.3, seed=1))
    assert [len(part) for part in (data.train, data.val, data.test)] == [35, 14, 21]
    for part, share in ((data.train, 0.5), (data.val, 0.2), (data.test, 0.3)):
        for count, whole in zip(part.labels.bincount(), COUNTS.values(), strict=True):
            assert abs(count - share * whole) <= 1
    torch.manual_seed(5)
    assert torch.equal(ready(pets, split=Split(val=0.2, test=0.3, seed=1)).val.images, data.val.images)
    assert not torch.equal(ready(pets, split=Split(val=0.2, test=0.3, seed=2)).val.images, data.val.images)


def test_a_rare_class_trains_first(tmp_path: Path) -> None:
    """The only image of a class is in the training part."""
    root = folder(tmp_path, {"rare": 1, "usual": 30})
    for seed in range(5):
        assert ready(root, split=Split(seed=seed)).train.labels.bincount()[0] == 1


def test_training_images_are_standardised(pets: Path) -> None:
    """Each channel has mean 0 and standard deviation 1 over the training part; without it pixels are bytes over 255."""
    data = ready(pets, batch_size=1000)
    ((x, _),) = data.train_dataloader()
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(3), rtol=0, atol=1e-5)
    assert data.train.images.dtype == torch.uint8


def test_given_folders_are_the_parts(tmp_path: Path) -> None:
    """Folders train, val and test are taken as they are; a part that is missing is a share of training."""
    folder(tmp_path / "all/train", {"a": 10, "b": 10})
    folder(tmp_path / "all/test", {"a": 2, "b": 3}, first=100)
    data = ready(tmp_path / "all", split=Split(val=0.2))
    assert [len(part) for part in (data.train, data.val, data.test)] == [16, 4, 5]
    folder(tmp_path / "all/val", {"a": 1, "b": 1}, first=200)
    assert [len(part) for part in (ready(tmp_path / "all").train, ready(tmp_path / "all").val)] == [20, 2]
    (tmp_path / "all/valid").mkdir()
    with pytest.raises(
        of.DataError, match=r"divided into test, train, val, so that it cannot have a folder valid; the"
    ):
        Images(tmp_path / "all")


def test_another_folder_may_be_a_part(pets: Path, tmp_path: Path) -> None:
    """`test` and `val` may name folders, whose classes are those of training; an unknown one is named."""
    other = folder(tmp_path / "other", {"owl": 2, "cat": 1}, first=300)
    data = ready(pets, split=Split(test=str(other), val=0.1))
    assert [len(part) for part in (data.train, data.val, data.test)] == [63, 7, 3]
    assert data.test.labels.tolist() == [0, 2, 2]
    folder(other, {"yak": 1}, first=400)
    with pytest.raises(
        of.DataError, match=r"path yak/00.png is of class 'yak', which was not there in training; the cl"
    ):
        ready(pets, split=Split(test=str(other)))


def test_formats_and_depths(tmp_path: Path) -> None:
    """PNG, JPEG, BMP, GIF and TIFF files at any depth are images; other and hidden files are not."""
    for number, suffix in enumerate(("png", "JPG", "jpeg", "bmp", "gif", "tiff", "webp")):
        write(tmp_path / "a" / "deep" / f"{number}.{suffix}", noise(number))
        write(tmp_path / "b" / f"{number}.{suffix}", noise(number + 10))
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / ".hidden.png").write_text("no image")
    data = Images(tmp_path)
    assert len(data.source) == 14
    assert data.source.names[0] == "a/deep/0.png"
    data.setup("predict")
    assert len(data.predicted) == 14


def test_modes_of_images(tmp_path: Path) -> None:
    """Palettes and CMYK are RGB, bits are grey, transparent pixels are black, photographs are upright."""
    pixels = noise(0, (4, 5, 4))
    pixels[..., 3] = 255 * (pixels[..., 3] > 100)
    write(tmp_path / "rgba.png", pixels)
    read = ready(tmp_path, "predict").predicted.images[0]
    wanted = np.where(pixels[..., 3:] > 0, pixels[..., :3], 0).transpose(2, 0, 1)
    np.testing.assert_array_equal(read, wanted)
    for mode, channels in (("P", 3), ("CMYK", 3), ("1", 1), ("LA", 1)):
        at = tmp_path / mode
        at.mkdir()
        Image.fromarray(noise(1)).convert(mode).save(at / ("x.tiff" if mode == "CMYK" else "x.png"))
        assert Images(at).shape[0] == channels
    (tmp_path / "phone").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(noise(2)).save(tmp_path / "phone/x.jpg", exif=exif)
    assert Images(tmp_path / "phone").shape == (3, SIZE[1], SIZE[0])


def test_sizes_and_colours_are_converted_if_asked(tmp_path: Path) -> None:
    """`size` and `channels` resize and convert all images."""
    write(tmp_path / "a/0.png", noise(0, (12, 12, 3)))
    write(tmp_path / "b/0.png", noise(1, (20, 30)))
    data = ready(tmp_path, "predict", size=[6, 8], channels=1)
    assert data.predicted.images.shape == (2, 1, 6, 8)
    assert ready(tmp_path, "predict", convert=True).predicted.images.shape == (2, 3, 12, 12)
    assert data.predicted.images.float().std() < noise(0).astype(float).std()  # averaged, not picked


def test_a_trained_model_reads_other_images_alike(pets: Path, tmp_path: Path) -> None:
    """Units, size and classes are those of training: changed pixels change the batches by the same map."""
    trained = ready(pets)
    changed = tmp_path / "changed"
    for name in ("owl", "dog"):  # another order, and one class less
        for number, file in enumerate(sorted((pets / name).iterdir())):
            write(changed / name / f"{number:02}.png", (np.array(Image.open(file)) // 2 + 20).astype(np.uint8))
    later = stored(trained, changed)
    later.setup("predict")
    later.adopt(of.Units.of(json.loads(json.dumps(trained.units.plain()))))
    later.setup("predict")
    (x,) = list(later.predict_dataloader())
    before = torch.from_numpy(np.stack([np.array(Image.open(changed / name)) for name in later.source.names]))
    shift, scale = (torch.tensor(each) for each in (trained.units.shift, trained.units.scale))
    torch.testing.assert_close(x, ((before.float() / 255 - shift) / scale).permute(0, 3, 1, 2))
    assert later.class_names == ("cat", "dog", "owl")
    later.setup("test")
    assert set(later.test.labels.tolist()) <= {1, 2}


def test_only_training_images_are_changed(pets: Path) -> None:
    """`flip` and `affine` change what trains, in a trainer; labels stay."""
    for options in ({"flip": True}, {"affine": True}):
        data = ready(pets, **options)
        batch = next(iter(data.val_dataloader()))
        for training in (True, False):
            data.trainer = SimpleNamespace(training=training)  # pyright: ignore
            x, labels = data.on_after_batch_transfer(batch, 0)
            assert torch.equal(labels, batch[1])
            assert torch.equal(x, batch[0]) is not training


# What is wrong is named


def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    """No folder, no images, an empty class, one class, images beside classes."""
    with pytest.raises(of.DataError, match=r"there is no folder .*nowhere"):
        Images(tmp_path / "nowhere")
    (tmp_path / "x.txt").write_text("no folder")
    with pytest.raises(of.DataError, match=r"x.txt is a file; expected is a folder of images, or a .npz or .npy file"):
        Images(tmp_path / "x.txt")
    with pytest.raises(of.DataError, match=r"has no images \(.png, .*FOLDER/CLASS/\*.png"):
        Images(tmp_path)
    folder(tmp_path, {"a": 4})
    with pytest.raises(of.DataError, match="has one class only, a; a classification needs two or more"):
        Images(tmp_path)
    (tmp_path / "b").mkdir()
    with pytest.raises(of.DataError, match=r"b has no images .* Remove it, or put images there"):
        Images(tmp_path)
    folder(tmp_path, {"b": 4})
    write(tmp_path / "x.png", noise(9))
    with pytest.raises(of.DataError, match=r"has both images, such as x.png, and folders, such as a"):
        Images(tmp_path)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (noise(0, (5, 9, 3)), r"b/09.png is 5×9 RGB, but expected is 6×9 RGB, as a/00.png. To resize and convert all"),
        (noise(0, SIZE), r"b/09.png is 6×9 grey, but expected is 6×9 RGB, as a/00.png. .* set --data.convert true"),
    ],
)
def test_other_sizes_and_colours_are_refused(tmp_path: Path, pixels: NDArray[np.uint8], message: str) -> None:
    """An image of another size or other channels is named with the one that it differs from."""
    write(folder(tmp_path, {"a": 9, "b": 9}) / "b/09.png", pixels)
    with pytest.raises(of.DataError, match=message):
        ready(tmp_path)


def test_another_size_than_in_training_is_refused(pets: Path, tmp_path: Path) -> None:
    """The model keeps the size of its images."""
    write(tmp_path / "x.png", noise(0, (12, 9, 3)))
    later = stored(Images(pets), tmp_path)
    with pytest.raises(of.DataError, match=r"x.png is 12×9 RGB, but expected is 6×9 RGB, as in training"):
        later.setup("predict")


@pytest.mark.parametrize("contents", [b"", b"<html>", b"cut"])
def test_a_damaged_image_is_named(tmp_path: Path, contents: bytes) -> None:
    """A file that is no image, or half of one."""
    root = folder(tmp_path, {"a": 9, "b": 9})
    half = (root / "a/01.png").read_bytes()[:90]
    (root / "b/03.png").write_bytes(half if contents == b"cut" else contents)
    with pytest.raises(of.DataError, match=r"b/03.png cannot be read: .+ Remove it, or replace it by an image"):
        ready(root)


def test_deep_pixels_are_refused(tmp_path: Path) -> None:
    """Sixteen bits a channel would be cut to eight."""
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "x.png")
    with pytest.raises(of.DataError, match=r"x.png has more than eight bits in a channel \(mode I;16\); give such"):
        Images(tmp_path)


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    """Each part needs one."""
    with pytest.raises(
        of.DataError, match=r"too few images: 4 train, 0 val, 0 test, but fit needs some of val. Give more"
    ):
        ready(folder(tmp_path, {"a": 2, "b": 2}))


def test_more_images_than_memory_are_refused(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says how much they need."""
    monkeypatch.setattr("odeflow_data.image_folder.available_memory", lambda: 1000)
    with pytest.raises(
        of.DataError, match=r"images of 6×9 RGB need 0.0 GiB of memory; 0.0 GiB are free. Make them small"
    ):
        ready(pets)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": [4]}, r"size must be \[height, width\]; got \[4\]"),
        ({"size": [0, 4]}, "size must be at least 1"),
        ({"channels": 2}, "channels must be 1 or 3; got 2"),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        (
            {"split": Split(by="day")},
            r"split.by and split.group name columns of a table, but .* got \['day'\]. Put images",
        ),
    ],
)
def test_wrong_options_are_refused(pets: Path, options: dict[str, Any], message: str) -> None:
    """Each is named with its value."""
    with pytest.raises(of.SettingError, match=message):
        Images(pets, **options)


def test_a_constant_channel_is_refused(tmp_path: Path) -> None:
    """Black images cannot be standardised."""
    images = np.zeros((20, 4, 4), np.uint8)
    with pytest.raises(
        of.DataError, match=r"channel 0 is constant in the 16 training images. Set --data.standardise=false"
    ):
        ready({"images": images, "labels": [0, 1] * 10})
    assert len(ready({"images": images, "labels": [0, 1] * 10}, standardise=False).train) == 16


# Arrays


@pytest.mark.parametrize("shape", [(30, 7, 8), (30, 7, 8, 3), (30, 3, 7, 8), (30, 1, 7, 8), (30, 12, 20, 30)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float64, np.int32, bool])
def test_arrays_of_any_layout(shape: tuple[int, ...], dtype: Any, tmp_path: Path) -> None:
    """Grey or with channels first or last, bytes in any type or truth values: batches have the channels first."""
    array = (noise(0, shape) // (128 if dtype is bool else 1)).astype(dtype)
    np.savez(tmp_path / "x.npz", images=array, labels=np.arange(30) % 2)
    data = ready(tmp_path / "x.npz", "predict", standardise=False)
    first = array[:, None] if array.ndim == 3 else np.moveaxis(array, -1, 1) if shape[-1] == 3 else array
    wanted = torch.from_numpy(np.ascontiguousarray(first)).float() / (1 if dtype is bool else 255)
    assert data.shape == tuple(wanted.shape[1:])
    torch.testing.assert_close(torch.cat(list(data.predict_dataloader())), wanted)


@pytest.mark.parametrize(
    ("change", "low", "high"),
    [
        (lambda array: array.astype(np.uint16) * 257, 0, 1),
        (lambda array: array / 255, 0, 1),
        (lambda array: array / 2.5, 0, 102),
        (lambda array: array / 255.0 * 2 - 1, -1, 1),
    ],
)
def test_numbers_that_are_no_bytes(change: Any, low: float, high: float) -> None:
    """Whole numbers of 16 bits lie between 0 and 1, others are as they are."""
    array = noise(0, (30, 7, 8))
    array[0, 0, :2] = 0, 255
    data = ready({"images": change(array)}, "predict", standardise=False)
    found = torch.cat(list(data.predict_dataloader()))
    scaled = torch.from_numpy(array[:, None]).float() / 255
    torch.testing.assert_close(found, low + (high - low) * scaled)


def test_whole_numbers_of_no_pixels() -> None:
    """Whole numbers below 0 or beyond 16 bits are refused."""
    with pytest.raises(of.DataError, match=r"images are whole numbers from -\d+ to \d+. Wanted are 0 to 255"):
        ready({"images": noise(0, (30, 7, 8)).astype(int) - 100}, "predict")


@pytest.mark.parametrize(
    "labels",
    [
        np.arange(40, dtype=np.uint8) % 10 + 1,
        (np.arange(40) % 10 + 1)[:, None].astype(np.float64),
        torch.arange(40) % 10 + 1,
        [str(number % 10 + 1) for number in range(40)],
    ],
)
def test_labels_of_any_kind(labels: Any) -> None:
    """1 to K, of any dtype, as a column or not: classes are numbered from 0 in the order of their numbers."""
    data = ready({"images": noise(0, (40, 8, 8)), "labels": labels})
    assert data.class_names == tuple(str(number) for number in range(1, 11))
    assert data.train.labels.dtype == torch.int64
    assert sorted(torch.cat([data.train.labels, data.val.labels, data.test.labels]).tolist()) == sorted(
        (np.arange(40) % 10).tolist()
    )


def test_divided_arrays_keep_their_parts(tmp_path: Path) -> None:
    """Arrays train_images, val_images and test_images are the parts."""
    arrays = {f"{part}_images": noise(n, (n, 8, 8)) for part, n in (("train", 20), ("val", 4), ("test", 6))}
    labels = {f"{part}_labels": np.arange(n)[:, None] % 2 for part, n in (("train", 20), ("val", 4), ("test", 6))}
    np.savez_compressed(tmp_path / "x.npz", **arrays, **labels)
    data = ready(tmp_path / "x.npz")
    for name, part in (("train", data.train), ("val", data.val), ("test", data.test)):
        wanted = {each.tobytes() for each in arrays[f"{name}_images"]}
        assert {each.numpy().tobytes() for each in part.images} == wanted


def test_a_npy_file_holds_images_alone(tmp_path: Path) -> None:
    """Without labels batches are images, for tasks that need no classes."""
    np.save(tmp_path / "x.npy", noise(0, (20, 8, 8)))
    data = ready(tmp_path / "x.npy")
    assert isinstance(next(iter(data.train_dataloader())), Tensor)
    assert not hasattr(data, "num_classes")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": noise(0, (9, 8, 8))}, "has no array images; it holds x. Wanted are arrays images and labels"),
        ({"images": noise(0, (9, 8))}, r"images has the shape \(9, 8\). Wanted"),
        ({"images": noise(0, (9, 4, 4, 4))}, "does not show which axis is the channels'"),
        (
            {"images": noise(0, (9, 8, 8)), "labels": range(8)},
            r"labels has the shape \(8,\); expected one label for each",
        ),
        (
            {"images": noise(0, (9, 8, 8)), "labels": np.arange(9) / 2},
            "must hold whole numbers or text; its dtype is fl",
        ),
        ({"images": np.full((9, 8, 8), np.nan)}, "must hold numbers that are finite"),
        ({"images": noise(0, (9, 8, 8)).astype(str)}, "must hold real numbers"),
        (
            {"train_images": noise(0, (9, 8, 8)), "test_images": noise(0, (9, 8, 9))},
            "images of all parts must have one",
        ),
    ],
)
def test_wrong_arrays_are_refused(arrays: dict[str, Any], message: str) -> None:
    """Each message says what was found."""
    with pytest.raises(of.DataError, match=message):
        Images(arrays)


def test_arrays_of_another_size_are_refused(pets: Path) -> None:
    """Arrays are not resized."""
    with pytest.raises(
        of.DataError, match=r"holds images of 8×8 grey, but expected is 6×9 RGB, .* Arrays are not resized"
    ):
        ready(noise(0, (9, 8, 8)), "predict", size=[6, 9], channels=3)


def test_moments_are_exact() -> None:
    """Mean and standard deviation of each channel, whatever the chunks; a large offset costs no digits."""
    images = torch.randn(2500, 2, 3, 3, dtype=torch.float64).float() + torch.tensor([0.0, 1000.0])[:, None, None]
    mean, std = channel_moments(images)
    torch.testing.assert_close(torch.tensor(mean, dtype=torch.float64), images.double().mean((0, 2, 3)))
    torch.testing.assert_close(torch.tensor(std, dtype=torch.float64), images.double().std((0, 2, 3), correction=0))
