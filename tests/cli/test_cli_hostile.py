"""Hostile files: recipes, checkpoints, weights, data and records that were made to run something, or to take all memory.

Each is refused in a few lines; nothing of it is executed, imported, unpacked or kept. The long run of 200 files:
`pytest -m slow tests/cli/test_cli_hostile.py`.
"""

import gzip
import io
import json
import pickle
import random
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from fuzzing import check, complaint, unloadable
from odeflow.cli.main import main

MEMORY = 1 << 26
"""Free memory in bytes, as far as data know here, so that a bomb may be small."""
TRAP = "module_of_the_trap"
COMMANDS = ("mkdir executed", "touch executed")
FIT = "fit --trainer.max_epochs 1 --trainer.enable_progress_bar false --trainer.enable_model_summary false"
TABLE = f"{FIT} -c own/density --trainer.callbacks [] --data.path"


@pytest.fixture(autouse=True)
def _trap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that leaves a trace when it is imported, little memory, and nothing to download."""
    Path("trap").mkdir()
    Path(f"trap/{TRAP}.py").write_text("import os\nos.mkdir('executed')\n\n\ndef f(*args):\n    os.mkdir('executed')\n")
    monkeypatch.syspath_prepend(Path("trap").resolve())
    monkeypatch.setattr("odeflow_data.archive.available_memory", lambda: MEMORY)
    monkeypatch.setattr("odeflow_data.frame.available_memory", lambda: MEMORY)


# Gadgets of pickles


class Call:
    """What a pickle calls when it is read."""

    def __init__(self, function: str, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        module, _, name = self.function.rpartition(".")
        return getattr(__import__(module, fromlist=[name]), name), self.args


def gadget(choose: random.Random) -> Any:
    """An object that does something when it is unpickled."""
    command = choose.choice(COMMANDS)
    return choose.choice(
        [
            Call("os.system", command),
            Call("subprocess.Popen", ["/bin/sh", "-c", command]),
            Call("builtins.exec", "import os; os.mkdir('executed')"),
            Call("builtins.eval", "__import__('os').mkdir('executed')"),
            Call("importlib.import_module", TRAP),
            Call("os.mkdir", "executed"),
            Call("shutil.copytree", "trap", "executed"),
            Call("builtins.open", "executed", "w"),
            Call("torch.save", {}, "executed"),
            Call("numpy.savetxt", "executed", [1.0]),
            Call("runpy.run_path", f"trap/{TRAP}.py"),
        ]
    )


def archive(parts: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", how) as file:
        for name, contents in parts.items():
            file.writestr(name, contents)
    return stream.getvalue()


# Checkpoints and weights


def pickled_whole(choose: random.Random, sound: Path) -> bytes:
    """A plain pickle in the place of a checkpoint."""
    return pickle.dumps({"state_dict": {}, "odeflow": gadget(choose)}, protocol=choose.choice([0, 2, 4]))


def pickled_inside(choose: random.Random, sound: Path) -> bytes:
    """A checkpoint with a gadget somewhere."""
    stream, contents = io.BytesIO(), torch.load(sound, weights_only=True)
    key = choose.choice([*contents, "more", "hyper_parameters"])
    contents[key] = choose.choice([gadget(choose), [gadget(choose)], {"x": gadget(choose)}])
    torch.save(contents, stream)
    return stream.getvalue()


def compressed_parts(choose: random.Random, sound: Path) -> bytes:
    """A checkpoint whose weights are megabytes of zeros that take no place in the file."""
    parts = {name: zipfile.ZipFile(sound).read(name) for name in zipfile.ZipFile(sound).namelist()}
    return archive({**parts, "x/data/99": bytes(choose.randint(1, 64) << 20)}, zipfile.ZIP_DEFLATED)


def nested(levels: int, width: int) -> Any:
    """Lists of the same lists, width**levels values in few bytes."""
    value: Any = "x"
    for _ in range(levels):
        value = [value] * width
    return value


def huge_spec(choose: random.Random, sound: Path) -> bytes:
    """A spec of 10¹² values, of lists that are the same ones."""
    stream, contents = io.BytesIO(), torch.load(sound, weights_only=True)
    contents["odeflow"][choose.choice(["model", "data"])]["init_args"]["x"] = nested(12, choose.randint(10, 40))
    torch.save(contents, stream)
    return stream.getvalue()


def other_class(choose: random.Random, sound: Path) -> bytes:
    """A spec that names what is no plugin."""
    stream, contents = io.BytesIO(), torch.load(sound, weights_only=True)
    path = choose.choice(
        [f"{TRAP}.f", "os.system", "subprocess.Popen", "odeflow.cli.main.main", "torch.hub.load", "x.y"]
    )
    spec = {"class_path": path, "init_args": choose.choice([{}, {"command": COMMANDS[0]}, {"cmd": COMMANDS[0]}])}
    if choose.random() < 0.5:
        contents["odeflow"]["model"] = spec
    else:
        contents["odeflow"]["model"]["init_args"][choose.choice(["solver", "dynamics", "gradient"])] = spec
    torch.save(contents, stream)
    return stream.getvalue()


def bomb_of_opcodes(choose: random.Random, sound: Path) -> bytes:
    """A pickle that asks for more bytes than there are."""
    size = choose.choice([1 << 30, 1 << 40, (1 << 63) - 1])
    return archive({"a/data.pkl": b"\x80\x04\x8e" + struct.pack("<Q", size) + b"x", "a/version": b"3\n"})


CHECKPOINTS = (pickled_whole, pickled_inside, compressed_parts, huge_spec, other_class, bomb_of_opcodes)


def checkpoint(choose: random.Random, sound: Path, trained: Path) -> list[str]:
    """A hostile checkpoint, and a command that reads it."""
    make = choose.choice(CHECKPOINTS)
    Path("evil.ckpt").write_bytes(make(choose, sound))
    alone = make in (huge_spec, other_class)  # whose weights a recipe may use
    words = ["test --ckpt_path evil.ckpt", "sample --ckpt_path evil.ckpt", "predict --ckpt_path evil.ckpt"]
    words += [] if alone else ["fit -c spiral --ckpt_path evil.ckpt", "fit -c spiral --weights evil.ckpt"]
    return choose.choice(words).split()


def weights(choose: random.Random, sound: Path, trained: Path) -> list[str]:
    """Hostile weights, and a command that reads them."""
    text = trained.read_bytes()
    length = 8 + struct.unpack("<Q", text[:8])[0]
    header, rest = json.loads(text[8:length]), text[length:]
    spec = json.loads(header["__metadata__"]["model"])
    fault = choose.randrange(6)
    if fault == 0:
        Path("evil.safetensors").write_bytes(pickle.dumps(gadget(choose)))
    elif fault == 1:
        Path("evil.safetensors").write_bytes(struct.pack("<Q", choose.choice([1 << 40, (1 << 64) - 1])) + text[8:])
    else:
        name = choose.choice([each for each in header if each != "__metadata__"])
        if fault == 2:
            header[name]["shape"] = [1 << 40, 1 << 20]
        elif fault == 3:
            header[name]["data_offsets"] = [0, 1 << 50]
        elif fault == 4:
            spec["class_path"] = choose.choice([f"{TRAP}.f", "os.system"])
        else:
            spec["init_args"]["dynamics"] = {"class_path": f"{TRAP}.f", "init_args": {}}
        header["__metadata__"]["model"] = json.dumps(spec)
        told = json.dumps(header).encode()
        Path("evil.safetensors").write_bytes(struct.pack("<Q", len(told)) + told + rest)
    words = ["sample --ckpt_path evil.safetensors", "test --ckpt_path evil.safetensors --data Spiral"]
    words += [] if fault in (4, 5) else ["fit -c spiral --weights evil.safetensors"]
    return choose.choice(words).split()


# Recipes

YAML = (
    "model: !!python/object/apply:os.system ['mkdir executed']",
    "model: !!python/object/new:os.mkdir [executed]",
    f"model: !!python/name:{TRAP}.f",
    f"model: !!python/module:{TRAP}",
    "model: !!python/object/apply:subprocess.Popen [[mkdir, executed]]",
    "!!set {a, b}",
    "model: !!binary aGk=",
    "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{n}: &b{n} [{', '.join([f'*b{n - 1}' if n else '*a'] * 10)}]\n" for n in range(9)),
    "model: &m\n  <<: *m\n",
    "model: &m {x: *m}",
    "model: " + "[" * 20_000,
    "model: " + "{a: " * 5000,
    "model: {class_path: Trajectory\x00}",
    "model: 1" + "0" * 100_000,
    "trainer: {max_epochs: 1" + "0" * 5000 + "}",
    "--- a\n--- b\n",
    "%YAML 9.9\n---\nmodel: x",
    "\ufeff\ufeffmodel: x",
    "model: {class_path: Trajectory, class_path: RNN}",
    f"plugins: {TRAP}",
    f"optimizer: {{class_path: {TRAP}.Adam}}",
    f"trainer: {{callbacks: [{TRAP}.Callback]}}",
    f"trainer: {{logger: {{class_path: {TRAP}.Logger, init_args: {{a: 1}}}}}}",
    f"trainer: {{callbacks: [{{class_path: LambdaCallback, init_args: {{on_fit_start: {TRAP}.f}}}}]}}",
    f"trainer: {{strategy: {{class_path: DDPStrategy, init_args: {{ddp_comm_hook: {TRAP}.f}}}}}}",
    f"lr_scheduler: {{class_path: LambdaLR, init_args: {{lr_lambda: {TRAP}.f}}}}",
    f"figures: {{style: {TRAP}.f}}",
    "figures: {style: 'http://127.0.0.1:9/x.mplstyle'}",
    "figures: {style: evil.mplstyle}",
    "trainer: {profiler: bomb.yaml}",
    "trainer: {plugins: [bomb.yaml]}",
    "weights_only: false",
    "ckpt_path: [a]",
    "ckpt_path: ../../../../etc/passwd",
    "data: {class_path: Table, init_args: {path: /dev/zero}}",
    "data: {class_path: Table, init_args: {path: /proc/self/mem}}",
    "data: {class_path: Images, init_args: {path: /dev}}",
    "data: {class_path: MNIST, init_args: {root: /dev/null/x, url: 'file:///etc/'}}",
    "model: {init_args: {dynamics: {class_path: Equations, init_args: {equations: {x: '().__class__.__bases__[0]'}}}}}",
    "model: {init_args: {dynamics: {class_path: Equations, init_args: {equations: {x: '__import__(\"os\").mkdir(\"executed\")'}}}}}",
    "model: {init_args: {dynamics: {class_path: Equations, init_args: {equations: {x: 9**9**9**9}}}}}",
)  # fmt: skip


def recipe(choose: random.Random, sound: Path, trained: Path) -> list[str]:
    """A hostile recipe over a good one, in several encodings."""
    Path("evil.mplstyle").write_text("animation.ffmpeg_path: trap/run\ntext.usetex: True\n")
    Path("bomb.yaml").write_text(next(text for text in YAML if text.startswith("a: &a")))
    text = choose.choice(YAML)
    coding = choose.choice(["utf-8", "utf-8", "utf-8", "utf-16", "utf-32"])
    Path("evil.yaml").write_bytes(text.encode(coding))
    return f"{FIT} -c {'spiral' if 'Table' not in text else 'own/density'} -c evil.yaml".split()


# Data


def npy_header(shape: str, descr: str = "'<f8'") -> bytes:
    told = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    told += " " * (-(len(told) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(told)) + told.encode() + bytes(64)


def array(choose: random.Random) -> tuple[str, bytes]:
    """A NumPy file of objects, or whose header says what cannot be."""
    stream = io.BytesIO()
    fault = choose.randrange(8)
    if fault == 0:
        np.save(stream, np.array([gadget(choose)] * 3, dtype=object), allow_pickle=True)
    elif fault == 1:
        np.savez(stream, x=np.array([gadget(choose)], dtype=object), y=np.zeros(3))
        return "x.npz", stream.getvalue()
    elif fault == 2:
        return "x.npz", archive(
            {"x.npy": npy_header(f"({2 * MEMORY // 8},)") + bytes(2 * MEMORY)}, zipfile.ZIP_DEFLATED
        )
    elif fault == 3:
        packed = bytearray(archive({"x.npy": npy_header("(8,)")}))
        place = packed.rfind(b"PK\x01\x02")
        packed[place + 24 : place + 28] = struct.pack("<I", 0xFFFFFFF0)  # how large the member says to be
        return "x.npz", bytes(packed)
    elif fault == 4:
        return "x.npy", npy_header("(10**12,)" if choose.random() < 0.5 else f"({10**13}, 3)")
    elif fault == 5:
        return "x.npy", npy_header("(-1, 2)")
    elif fault == 6:
        return "x.npy", npy_header("(8,)", "__import__('os').mkdir('executed')")
    else:
        return "x.npy", npy_header("(8,)", choose.choice(["'O'", "'|V100000000'", "[('a', 'O')]", "'<f16'"]))
    return "x.npy", stream.getvalue()


def text(choose: random.Random) -> tuple[str, bytes]:
    """A CSV file of what no table holds."""
    fault = choose.randrange(9)
    head, row = b"a,b,c\n", b"1.0,2.0,3.0\n"
    if fault == 0:
        return "x.csv", head + row * 20 + b"1.0,\x00\x00,2.0\n" + row * 20
    if fault == 1:
        return "x.csv", head + row * 20 + b"1.0,\xff\xfe\xc0,2.0\n" + row * 20
    if fault == 2:
        wide = choose.choice([5_000, 20_000])
        return "x.csv", b",".join(b"c%d" % each for each in range(wide)) + b"\n" + b",".join([b"x"] * wide) + b"\n"
    if fault == 3:
        return "x.csv", head + b'"' + row * 1000
    if fault == 4:
        return "x.csv", head + row * 20 + b"1.0,2.0,3.0,4.0,5.0\n" * 3
    if fault == 5:
        return "x.csv", head + b"=cmd|' /C calc'!A0,@SUM(1),+1\n" * 30
    if fault == 6:
        return "x.csv.gz", gzip.compress(head + b"0" * 2 * MEMORY, 1)
    if fault == 7:
        return "x.csv.gz", gzip.compress(head + row * 1000)[: choose.randint(1, 60)]
    return "x.csv", choose.randbytes(3000)


def parquet(choose: random.Random) -> tuple[str, bytes]:
    """A Parquet file whose parts were changed, or of far more rows than its size tells."""
    stream = io.BytesIO()
    if choose.random() < 0.3:
        pl.select(a=pl.repeat(True, MEMORY // 16, dtype=pl.Boolean)).write_parquet(stream)
        return "x.parquet", stream.getvalue()
    pl.DataFrame({"a": range(100), "b": [float(each) for each in range(100)]}).write_parquet(stream)
    contents = bytearray(stream.getvalue())
    length = struct.unpack("<I", contents[-8:-4])[0]
    for _ in range(30):  # the footer says where everything is
        contents[choose.randrange(len(contents) - 8 - length, len(contents) - 8)] = choose.randrange(256)
    return "x.parquet", bytes(contents)


def table(choose: random.Random, sound: Path, trained: Path) -> list[str]:
    """A hostile file in the place of a table."""
    name, contents = choose.choice([array, text, parquet])(choose)
    Path(name).write_bytes(contents)
    return f"{TABLE} {name}".split()


def images(choose: random.Random, sound: Path, trained: Path) -> list[str]:
    """A folder of images one of which is a program, or a bomb."""
    folder = Path("photos")
    for kind in ("a", "b"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for number in range(10):
            Image.fromarray(np.full((8, 8), 10 * number, np.uint8)).save(folder / kind / f"{number}.png")
    stream = io.BytesIO()
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(stream, "PNG")
    bomb = bytearray(stream.getvalue())
    bomb[16:24] = struct.pack(">II", 200_000, 200_000)
    bomb[29:33] = struct.pack(">I", __import__("zlib").crc32(bomb[12:29]))
    (folder / "a" / "0.png").write_bytes(
        choose.choice(
            [
                b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(executed) (w) file closefile showpage\n%%EOF\n",
                b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>",
                bytes(bomb),
                pickle.dumps(gadget(choose)),
                b"II*\x00\xff\xff\xff\xff",
                b"GIF89a" + bytes(20),
            ]
        )
    )
    return f"{FIT} -c own/images --trainer.callbacks [] --data.path photos".split()


def tarred(choose: random.Random, sound: Path, trained: Path) -> list[str]:
    """A tar with files of other places, links and devices, in the place of a published one."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for _ in range(6):
            name = choose.choice(
                ["../executed", "/tmp/executed", "set-a/1.txt", "cifar-10-batches-bin/data_batch_1.bin"]
            )
            member = tarfile.TarInfo(name)
            member.type = choose.choice(
                [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
            )
            member.linkname = choose.choice(["../executed", "/etc/passwd", name])
            member.size = 10 if member.type == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(b"x" * 10) if member.size else None)
    kept = choose.random() < 0.5
    root = Path("published")
    root.mkdir(exist_ok=True)
    (root / ("set-a.tar.gz" if kept else "cifar-10-binary.tar.gz")).write_bytes(
        stream.getvalue() if choose.random() < 0.8 else gzip.compress(bytes(1 << 29), 1)
    )
    (root / "Outcomes-a.txt").write_text("x\n")
    if kept:
        return f"{FIT} -c latent/physionet --data.root published --data.url http://127.0.0.1:9/".split()
    return (
        f"{FIT} -c own/images --trainer.callbacks [] --data CIFAR10 --data.verify false --data.root published".split()
    )


KINDS: dict[str, Callable[[random.Random, Path, Path], list[str]]] = {
    each.__name__: each for each in (checkpoint, weights, recipe, table, images, tarred)
}


@pytest.fixture(scope="module")
def trained(spiral_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported weights of a short run."""
    file = tmp_path_factory.mktemp("weights") / "sound.safetensors"
    assert main(["export", "--ckpt_path", str(spiral_run / "checkpoints/last.ckpt"), "--output", str(file)]) == 0
    return file


@pytest.mark.parametrize(
    "cases", [pytest.param(range(6), id="some"), pytest.param(range(6, 206), id="all", marks=pytest.mark.slow)]
)
def test_a_hostile_file_is_refused(spiral_run: Path, trained: Path, cases: range) -> None:
    """It is refused in a few lines: nothing is executed, imported or written, within a minute and bounded memory."""
    sound = spiral_run / "checkpoints/last.ckpt"

    def complain(case: int) -> str | None:
        choose = random.Random(case)
        make = [*KINDS.values()][case % len(KINDS)]
        words = make(choose, sound, trained)
        told = complaint(words, refused=True)
        if told is None and make is checkpoint:
            told = unloadable(Path("evil.ckpt"))
        if TRAP in sys.modules:
            told = f"the module of the trap was imported: {told}"
        if Path("executed").exists() or Path("../executed").exists() or Path("/tmp/executed").exists():
            told = f"something was executed: {told}"
        return told and f"{words}: {told}"

    check(cases, complain)
