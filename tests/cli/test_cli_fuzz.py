"""Fuzzing: whatever a recipe, a checkpoint or a file of weights holds, it is run or refused in a few lines.

The long run, of 2,000 recipes and 300 files, takes minutes: `pytest -m slow tests/cli/test_cli_fuzz.py`.
"""

import contextlib
import copy
import io
import json
import math
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from fuzzing import check, complaint, unloadable
from odeflow.cli.main import main
from odeflow.config import recipes
from odeflow.plugin import registry

NAMES = sorted(name for kind in registry.kinds() for name in registry.plugins(kind))
NASTY: list[Any] = [
    *(None, True, -1, 0, 1, 7, 10**9, 10**12, 10**30, -(10**30)),
    *(1e308, -1e308, 1e-320, math.nan, math.inf, -math.inf, 0.5, -0.5),
    *("", " ", "x", "1e3", "null", "RK4", "Adam", "os.system", "a.b.c", ".", "é" * 300, "../" * 50, "${x}", "\t", "*"),
    *([], {}, [[]], [None], [{}], [1e308, -1], ["RK4"], {"": 1}, {"x": {"y": {"z": []}}}, {"a+": 1}, [1] * 5000),
    *({"class_path": 3.7}, {"class_path": None}, {"class_path": []}, {"class_path": "RK4"}, {"init_args": []}),
    {"class_path": "MLP", "init_args": {"dim": "x"}},
    {"class_path": "MLP", "init_args": None, "dict_kwargs": {"a": 1}},
]
SNIPPETS = (
    "!!python/object:os.system x",
    "&a [*a]",
    "*nobody",
    "!!binary aGk=",
    "- ",
    "? ",
    ": ",
    "<<: *x",
    "{",
    "[" * 500,
)


# What is mutated


def places(tree: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value in a tree of dicts and lists."""
    found: list[tuple[Any, Any]] = []
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        found += [(tree, key), *places(value)]
    return found


def mutate(tree: Any, choose: random.Random) -> Any:
    """A copy of a tree with one to three faults; half of the copies have them at single values alone."""
    tree, anywhere = copy.deepcopy(tree), choose.random() < 0.5
    for _ in range(choose.choice([1, 1, 1, 2, 3])):
        known = places(tree)
        known = [each for each in known if anywhere or not isinstance(each[0][each[1]], (dict, list))] or known
        if not known:
            break
        container, key = choose.choice(known)
        fault = choose.randrange(7)
        if fault == 0:
            del container[key]
        elif fault == 1 and isinstance(container, dict):
            container[choose.choice([f"{key}+", f"{str(key)[:-1]}", "", "class_path", "init_args"])] = container.pop(
                key
            )
        elif fault == 2:
            container[key] = [container[key]] * choose.randint(1, 3)
        elif fault == 3:
            other, there = choose.choice(known)
            container[key] = copy.deepcopy(other[there])
        elif fault == 4:
            container[key] = choose.choice(NAMES)
        else:
            container[key] = copy.deepcopy(choose.choice(NASTY))
    return tree


def garble(text: bytes, choose: random.Random) -> bytes:
    """The bytes of a file with some cut off, changed, repeated or put in."""
    place = choose.randrange(len(text) + 1)
    fault = choose.randrange(5)
    if fault == 0:
        return text[:place]
    if fault == 1:
        return text[:place] + choose.randbytes(choose.randint(1, 20)) + text[place:]
    if fault == 2:
        return text[:place] + text[place + choose.randint(1, 20) :]
    if fault == 3:
        start = choose.randrange(place + 1)
        return text[:place] + text[start:place] + text[place:]
    return text[:place] + choose.choice(SNIPPETS).encode() + text[place:]


def recipe(case: int) -> bytes:
    """The mutated recipe of a number."""
    choose = random.Random(case)
    name = choose.choice(sorted(recipes.available()))
    text = recipes.find(name).read_bytes()
    if choose.random() < 0.3:
        return garble(text, choose)
    return yaml.safe_dump(mutate(recipes.read(name), choose), allow_unicode=True, sort_keys=False).encode()


def write_checkpoint(case: int, file: Path, sound: Path) -> None:
    """Writes the damaged checkpoint of a number."""
    choose = random.Random(case)
    if choose.random() < 0.3:
        file.write_bytes(garble(sound.read_bytes(), choose))
        return
    contents = torch.load(sound, weights_only=True)
    part = choose.choice([None, "odeflow", "odeflow", "state_dict", "loops", "optimizer_states"])
    if part is None:
        contents = mutate(contents, choose)
    else:
        contents[part] = mutate(contents[part], choose) if choose.random() < 0.9 else choose.choice(NASTY)
    torch.save(contents, file)


def write_weights(case: int, file: Path, sound: Path) -> None:
    """Writes the damaged weights of a number: eight bytes say how long the header is, which is JSON."""
    choose, text = random.Random(case), sound.read_bytes()
    length = 8 + struct.unpack("<Q", text[:8])[0]
    header, rest = json.loads(text[8:length]), text[length:]
    fault = choose.randrange(4)
    if fault == 0:
        file.write_bytes(garble(text, choose))
        return
    if fault == 1:
        header = mutate(header, choose)
    elif fault == 2:
        spec = mutate(json.loads(header["__metadata__"]["model"]), choose)
        header["__metadata__"]["model"] = choose.choice(["{", "{}", "null", "[]", json.dumps(spec), json.dumps(spec)])
    told = choose.choice([b"{", b"{}", b"[]", b"null"]) if fault == 3 else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(told)) + told + rest)


@pytest.mark.parametrize(
    "cases", [pytest.param(range(20), id="some"), pytest.param(range(20, 2020), id="all", marks=pytest.mark.slow)]
)
def test_any_recipe_is_built_or_refused(monkeypatch: pytest.MonkeyPatch, cases: range) -> None:
    """A shipped recipe with random faults is built, or refused in a few lines: no traceback, no hang, bounded memory."""
    monkeypatch.setattr(Trainer, "fit", lambda self, *args, **kwargs: None)

    def complain(case: int) -> str | None:
        Path("mutated.yaml").write_bytes(recipe(case))
        return complaint(["fit", "-c", "mutated.yaml", "--trainer.accelerator", "cpu"])

    check(cases, complain)


@pytest.fixture(scope="module")
def weights(spiral_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a short run, not to be written to."""
    file = tmp_path_factory.mktemp("weights") / "sound.safetensors"
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["export", "--ckpt_path", str(spiral_run / "checkpoints/last.ckpt"), "--output", str(file)]) == 0
    return file


@pytest.mark.parametrize(
    "cases", [pytest.param(range(6), id="some"), pytest.param(range(6, 156), id="all", marks=pytest.mark.slow)]
)
def test_any_checkpoint_is_used_or_refused(spiral_run: Path, brief: str, cases: range) -> None:
    """A damaged checkpoint is tested, resumed and loaded, or each of them refuses it in a few lines."""
    sound, file = spiral_run / "checkpoints/last.ckpt", Path("damaged.ckpt")
    data = "--data.observations 20 --data.steps 1 --trainer.num_sanity_val_steps 0"

    def complain(case: int) -> str | None:
        write_checkpoint(case, file, sound)
        command = ("test -c spiral", "fit -c spiral", "test")[case % 3]
        limits = brief.replace("max_epochs 1", "max_epochs 2") if command.startswith("fit") else brief
        return complaint(f"{command} --ckpt_path {file} {data} {limits}".split()) or unloadable(file)

    check(cases, complain)


@pytest.mark.parametrize(
    "cases", [pytest.param(range(12), id="some"), pytest.param(range(12, 162), id="all", marks=pytest.mark.slow)]
)
def test_any_weights_are_used_or_refused(monkeypatch: pytest.MonkeyPatch, weights: Path, cases: range) -> None:
    """Damaged weights are loaded, or refused in a few lines, by a recipe and by their own header."""
    monkeypatch.setattr(Trainer, "fit", lambda self, *args, **kwargs: None)
    file = Path("damaged.safetensors")

    def complain(case: int) -> str | None:
        write_weights(case, file, weights)
        words = f"fit -c spiral --weights {file}" if case % 3 == 0 else f"sample --ckpt_path {file} --count 2"
        return complaint(words.split()) or unloadable(file)

    check(cases, complain)
