"""Digits: the published images, split without overlap, of the sizes that the plugin announces."""

import json
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

import odeflow as of
from odeflow.plugin import registry
from odeflow_data import Digits

SIZES = {"train": 1197, "val": 300, "test": 300}


def ready(**settings: int) -> Digits:
    data = Digits(**settings)
    data.prepare_data()
    data.setup("fit")
    return data


def gathered(data: Digits) -> dict[str, tuple[Tensor, Tensor]]:
    """Images and labels of each part, as its loader gives them."""
    loaders = {"train": data.train_dataloader(), "val": data.val_dataloader(), "test": data.test_dataloader()}
    batches = {part: list(loader) for part, loader in loaders.items()}
    return {part: (torch.cat([b[0] for b in some]), torch.cat([b[1] for b in some])) for part, some in batches.items()}


def pairs(images: Tensor, labels: Tensor) -> Counter[tuple[bytes, int]]:
    """How often each labelled image occurs, in the source's grey levels 0..16."""
    levels = (images * 16).to(torch.uint8).flatten(1).numpy()
    return Counter(zip(map(bytes, levels), labels.tolist(), strict=True))


@pytest.fixture(scope="module")
def parts() -> dict[str, tuple[Tensor, Tensor]]:
    return gathered(ready(batch_size=SIZES["train"]))


def test_the_parts_have_the_stated_sizes(parts: dict[str, tuple[Tensor, Tensor]]) -> None:
    """1,197 images train, 300 validate and 300 test."""
    assert {part: len(images) for part, (images, _) in parts.items()} == SIZES


def test_the_parts_share_no_image_and_lose_none(parts: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Train, validation and test together are the published images, each once and under its own label."""
    source = load_digits()
    published = pairs(torch.tensor(source.images)[:, None] / 16, torch.tensor(source.target))
    assert sum((pairs(*part) for part in parts.values()), Counter()) == published


def test_one_seed_gives_one_split() -> None:
    """The split depends on the seed alone: not on the global generator, the stage or the batch size."""
    torch.manual_seed(1)
    first = gathered(ready(batch_size=SIZES["train"]))
    torch.manual_seed(2)
    again = Digits(batch_size=399)
    again.setup("test")
    second = gathered(again)
    assert all(pairs(*first[part]) == pairs(*second[part]) for part in SIZES)
    assert torch.equal(first["test"][0], second["test"][0])


def test_another_seed_gives_another_split() -> None:
    """Two seeds keep different images for the test."""
    first, second = (gathered(ready(seed=seed))["test"] for seed in (0, 1))
    assert pairs(*first) != pairs(*second)


def test_grey_levels_fill_the_unit_interval(parts: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Pixels lie in [0, 1] and reach both ends."""
    for images, _ in parts.values():
        assert images.dtype == torch.float32
        assert images.min() == 0
        assert images.max() == 1


def test_announced_sizes_are_those_of_the_batches(parts: dict[str, tuple[Tensor, Tensor]]) -> None:
    """`shape`, `dim` and `num_classes`, known before the data are read, are what the batches show."""
    announced = Digits()
    for images, labels in parts.values():
        assert images.shape[1:] == announced.shape == announced.input_shape == (1, 8, 8)
        assert images[0].numel() == announced.dim
        assert labels.dtype == torch.int64
        assert labels.unique().tolist() == list(range(announced.num_classes))


def test_training_batches_are_full_and_shuffled() -> None:
    """Every training batch holds `batch_size` images, in another order each epoch."""
    loader = ready(batch_size=100).train_dataloader()
    torch.manual_seed(0)
    first, second = list(loader), list(loader)
    assert [len(images) for images, _ in first] == [100] * 11
    assert not torch.equal(first[0][0], second[0][0])


def test_predictions_are_made_of_the_test_images(parts: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Prediction sees the test images in the test's order."""
    predicted = torch.cat([images for images, _ in ready().predict_dataloader()])
    assert torch.equal(predicted, parts["test"][0])


def test_spec_is_plain_and_rebuilds_the_data() -> None:
    """The spec survives JSON and builds data with the same split."""
    data = ready(batch_size=50, seed=3)
    registry.discover()
    rebuilt = registry.build(json.loads(json.dumps(data.spec)))
    rebuilt.setup("fit")
    assert type(rebuilt) is Digits
    assert rebuilt.spec == data.spec
    assert len(next(iter(rebuilt.train_dataloader()))[0]) == 50
    assert pairs(*gathered(rebuilt)["test"]) == pairs(*gathered(data)["test"])


@pytest.mark.parametrize("processes", [1, 2])
def test_there_must_be_a_batch_to_train_on(processes: int) -> None:
    """Batches larger than the training part, or a process's share of it, are an error and not an empty epoch."""
    data = ready(batch_size=5000)
    data.trainer = SimpleNamespace(world_size=processes)
    share = {1: "1,197 samples train, fewer", 2: "599 samples train in each of 2 processes, fewer"}[processes]
    with pytest.raises(of.DataError, match=rf"Digits: {share} than batch_size=5,000; .* Set --data.batch_size to"):
        data.train_dataloader()
    data.batch_size = {1: 1197, 2: 599}[processes]
    assert len(data.train_dataloader()) == 1
    with pytest.raises(of.SettingError, match="Digits: batch_size must be at least 1; got 0"):
        ready(batch_size=0).train_dataloader()
