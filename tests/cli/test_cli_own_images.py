"""Laws of recipes for one's own images: any folder trains them, and predictions name its files and classes."""

import csv
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from choice import few

QUIET = "--trainer.enable_progress_bar false --trainer.enable_model_summary false --trainer.num_sanity_val_steps 0"
BRIEF = f"--trainer.max_epochs 1 --trainer.log_every_n_steps 1 --seed_everything 1 {QUIET}"
SMALL = "--model.dynamics.channels 4 --model.solver.num_steps 1"


def folder(root: str, counts: dict[str, int], changed: bool = False) -> None:
    """RGB images of 32×48 pixels, the brighter the later their class; if `changed`, with red in other units."""
    random = np.random.default_rng(0)
    for number, (name, count) in enumerate(counts.items()):
        (Path(root) / name).mkdir(parents=True, exist_ok=True)
        for each in range(count):
            pixels = random.integers(0, 60, (32, 48, 3)) + 40 * number
            if changed:
                pixels[..., 0] = 2 * pixels[..., 0] + 10
            Image.fromarray(pixels.astype(np.uint8)).save(Path(root, name, f"{each:02}.png"))


def read(path: str) -> dict[str, list[str]]:
    """The columns of a table."""
    with Path(path).open(newline="") as stream:
        head, *rows = csv.reader(stream)
    return dict(zip(head, (list(column) for column in zip(*rows, strict=True)), strict=True))


FIELDS = {
    "ConvNet": "--model.dynamics.channels 4",
    "UNet": "--model.dynamics UNet --model.dynamics.channels 4 --model.dynamics.hidden 8 --model.dynamics.depth 1",
    "Transformer": "--model.dynamics Transformer --model.dynamics.dim 4 --model.dynamics.hidden 8 --model.dynamics.patch 1",
}


@pytest.mark.parametrize("name", FIELDS)
def test_any_field_trains_on_images_of_any_size(
    done: Any, metrics: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder of RGB images of 32×48 pixels trains convolutions, U-Nets and transformers by the command line."""
    folder("pets", {"cat": 6, "dog": 6})
    with caplog.at_level("INFO"):
        done(f"fit -c own/images --data.path pets --model.stem.downsample 2 {FIELDS[name]} {BRIEF}")
    wanted = "Images: pets: 8 images train, 2 images validate, 2 images test, split at random by seed 0; 32×48 RGB; "
    assert f"{wanted}classes: cat (4), dog (4); standardised" in caplog.text
    assert np.isfinite(metrics(Path("runs/own/images/version_0"))["val/loss"]).all()


def cifar10(root: Path) -> None:
    """Twenty images in each of CIFAR-10's binary files."""
    random = np.random.default_rng(0)
    root.mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        records = np.column_stack([np.arange(20) % 10, random.integers(0, 256, (20, 3072))])
        (root / f"{name}.bin").write_bytes(records.astype(np.uint8).tobytes())


def fashion(root: Path) -> None:
    """Few images in the four files of Fashion-MNIST."""
    random = np.random.default_rng(0)
    root.mkdir()
    for part, count in (("train", 60), ("t10k", 20)):
        sizes = [each.to_bytes(4, "big") for each in (count, 28, 28)]
        pixels = random.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        (root / f"{part}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + b"".join(sizes) + pixels.tobytes())
        labels = (np.arange(count) % 10).astype(np.uint8)
        (root / f"{part}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + sizes[0] + labels.tobytes())


PUBLISHED = {"fashion": (fashion, "MNIST --data.name fashion_mnist"), "cifar10": (cifar10, "CIFAR10")}


@pytest.mark.filterwarnings("ignore:.*not verified")
@pytest.mark.parametrize(
    ("name", "data"),
    few(product(FIELDS, PUBLISHED), [("ConvNet", "cifar10"), ("UNet", "fashion"), ("Transformer", "cifar10")]),
)
def test_any_field_trains_on_published_images(done: Any, metrics: Any, name: str, data: str) -> None:
    """Fashion-MNIST and CIFAR-10, in their published formats, train any field and are tested."""
    make, words = PUBLISHED[data]
    make(Path("files"))
    options = f"--data {words} --data.root files --data.verify false --data.val_size 20 --data.batch_size 40"
    done(f"fit -c own/images {options} --model.stem.downsample 2 {FIELDS[name]} {BRIEF}")
    done(f"test --ckpt_path runs/own/images/version_0/checkpoints/last.ckpt {QUIET}")
    assert np.isfinite(metrics(Path("runs/own/images/version_0"))["val/loss"]).all()
    assert np.isfinite(metrics(Path("runs/own/images/version_0/test/version_0"))["test/loss"]).all()


def test_predictions_name_files_and_classes(done: Any) -> None:
    """A row for each image of a folder, by its path; with the true class where the folders are classes."""
    folder("pets", {"cat": 6, "dog": 6})
    done(f"fit -c own/images --data.path pets {SMALL} {BRIEF}")
    words = f"predict --ckpt_path runs/own/images/version_0/checkpoints/last.ckpt {QUIET}"
    folder("new/dog", {"": 2})
    done(f"{words} --data.path new --output out.csv")
    found = read("out.csv")
    assert list(found) == ["path", "class", "probability_cat", "probability_dog", "class_true"]
    assert found["path"] == ["dog/00.png", "dog/01.png"]
    assert found["class_true"] == ["dog", "dog"]
    assert set(found["class"]) <= {"cat", "dog"}
    folder("mixed", {"dog": 1, "hen": 1})
    done(f"{words} --data.path mixed --output mixed.csv")
    assert read("mixed.csv")["class_true"] == ["dog", "hen"]
    done(f"{words} --data.path new/dog --output flat.csv")
    flat = read("flat.csv")
    assert list(flat) == ["path", "class", "probability_cat", "probability_dog"]
    assert flat["path"] == ["00.png", "01.png"]
    assert [flat[name] for name in list(flat)[1:]] == [found[name] for name in list(flat)[1:]]
    done(f"{words} --data.path new")
    (probabilities,) = torch.load(next(Path("runs").rglob("predictions.pt")))
    for number, name in enumerate(("cat", "dog")):
        wanted = [float(each) for each in found[f"probability_{name}"]]
        assert probabilities[:, number].tolist() == pytest.approx(wanted, abs=1e-6)


def test_a_model_keeps_its_units(done: Any, metrics: Any) -> None:
    """In other units training is the same; a trained model that sees changed pixels answers otherwise."""
    counts = {"cat": 6, "dog": 6}
    folder("plain", counts)
    folder("changed", counts, changed=True)
    for name in ("plain", "changed"):
        done(f"fit -c own/images --data.path {name} {SMALL} {BRIEF}")
    losses = [metrics(Path(f"runs/own/images/version_{number}"))["val/loss"] for number in (0, 1)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    words = f"test --ckpt_path runs/own/images/version_0/checkpoints/last.ckpt {QUIET} --data.path"
    tested = [
        done(f"{words} {name}") and metrics(Path(f"runs/own/images/version_0/test/version_{n}"))["test/loss"]
        for n, name in enumerate(("plain", "changed"))
    ]
    assert abs(tested[1][0] - tested[0][0]) > 1e-4


def test_wrong_folders_are_refused_in_a_line(done: Any, refused: Any) -> None:
    """An empty folder, one class, an unreadable image, other sizes and channels, and a class that did not train."""
    fit = f"fit -c own/images {SMALL} {BRIEF} --data.path"
    assert "there is no folder nowhere" in refused(f"{fit} nowhere")
    Path("empty").mkdir()
    assert "empty has no images (.png, .jpg," in refused(f"{fit} empty")
    folder("pets", {"cat": 6})
    assert "pets has one class only, cat" in refused(f"{fit} pets")
    folder("pets", {"cat": 6, "dog": 6})
    done(f"{fit} pets")
    trained = f"test --ckpt_path runs/own/images/version_0/checkpoints/last.ckpt {QUIET}"
    folder("other", {"cat": 6, "yak": 6})
    assert "is of class 'yak', which was not there in training; the classes are cat, dog" in refused(
        f"{trained} --data.split.test other"
    )
    Image.new("L", (48, 32)).save("pets/cat/07.png")
    assert "cat/07.png is 32×48 grey, but expected is 32×48 RGB, as cat/00.png." in refused(f"{fit} pets")
    Path("pets/cat/07.png").write_text("no image")
    assert "pets/cat/07.png cannot be read: cannot identify image file" in refused(f"{fit} pets")
    assert "there is no example 'pets' of images; there are digits" in refused(f"{fit} example:pets")


def test_images_without_classes_are_refused_by_a_classification(refused: Any) -> None:
    """A flat folder has none; the message says what is missing."""
    folder("flat", {"": 20})
    told = refused(f"fit -c own/images --data.path flat {SMALL} {BRIEF}")
    assert "Classification expects batches (inputs, labels)" in told
