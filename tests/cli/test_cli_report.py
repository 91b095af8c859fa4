"""The report: one page that holds all of its runs, asks nothing of the network, and shows text as text."""

import base64
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from odeflow.cli.main import main
from odeflow.config.recipes import Known, available, known_results, text

pytest.importorskip("plotly")
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def written(folder: Path, **changes: object) -> Path:
    """The folder of a run, as `fit` leaves it."""
    record = {
        "command": "fit",
        "recipe": "density/two_moons",
        "options": {"model.solver": "RK4"},
        "versions": {"odeflow": "0.1.0", "torch": "2.13.0"},
        "device": "cpu",
        "started": "2026-11-30T06:34:53+00:00",
        "status": "finished",
        "epochs": 2,
        "monitor": "val/loss",
        "best": 2.5,
        "best_path": "checkpoints/best.ckpt",
        "metrics": {"val/loss": 2.5, "val/loss_gaussian": 3.25, "val/nfe": 32.0, "train/loss_epoch": 2.75},
    } | changes
    (folder / "figures").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "metrics.csv").write_text(
        "epoch,step,train/loss,train/loss_epoch,val/loss,nfe/forward_epoch,val/accuracy,val/accuracy_most\n"
        "0,9,4.0,,,,,\n0,19,3.5,,,,,\n0,19,,3.75,3.0,20,0.5,0.25\n1,29,3.0,,,,,\n1,39,2.9,,,,,\n1,39,,2.75,2.5,32,nan,0.25\n"
    )
    Image.new("RGB", (300, 100)).save(folder / "figures" / "density_3_end.png")
    return folder


class Tags(HTMLParser):
    """What a page fetches, and its text by the tag around it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href", "poster", "srcset", "action")]

    def handle_data(self, data):
        if self.tags and self.tags[-1] in ("td", "th", "pre"):
            self.cells.append(data.strip())


def report(*words: object) -> str:
    assert main(["report", *map(str, words)]) == 0
    return Path(words[words.index("--output") + 1] if "--output" in words else f"{words[0]}/report.html").read_text()


def charts(page: str) -> list[dict]:
    """The data of its charts."""
    return json.loads(re.search(r"^(\[.*\])\.forEach\(", page, re.MULTILINE)[1])


def test_one_run(tmp_path):
    """It has the command, the options, the result beside simple models and known results, curves and pictures."""
    page = report(written(tmp_path / "version_0"))
    tags = Tags(page)
    assert all(source.startswith("data:") for source in tags.sources)
    assert "default-src 'none'" in page
    assert "odeflow fit -c density/two_moons --model.solver RK4" in tags.cells
    row = tags.cells.index("val/loss")
    assert tags.cells[row + 1 : row + 3] == ["2.5", "3.25"]
    assert {"gaussian", "entropy of the data", "2.394", "odeflow 0.1.0, torch 2.13.0"} <= {*tags.cells}
    assert tags.tags.count("img") == 1
    loss, evaluations = (
        next(each for each in charts(page) if each["title"].startswith(title)) for title in ("Loss", "Eval")
    )
    assert {each["name"]: (each["x"], each["y"]) for each in loss["curves"]} == {
        "train/loss": ([0, 1], [3.75, 2.75]),
        "val/loss": ([0, 1], [3.0, 2.5]),
    }
    assert evaluations["curves"][0]["y"] == [20, 32]
    accuracy = next(each for each in charts(page) if each["title"] == "accuracy")
    assert [each["y"] for each in accuracy["curves"]] == [[0.5], [0.25, 0.25]]  # without nan, beside a simple model's


def test_one_epoch_is_drawn_over_steps(tmp_path):
    """A run of one epoch has curves over its steps."""
    folder = written(tmp_path / "version_0")
    (folder / "metrics.csv").write_text("epoch,step,train/loss,train/loss_epoch\n0,9,4.0,\n0,19,3.5,\n0,19,,3.75\n")
    (loss,) = charts(report(folder))
    assert (loss["x"], [each["name"] for each in loss["curves"]], loss["curves"][0]["x"]) == (
        "step",
        ["train/loss"],
        [9, 19],
    )


def test_several_runs(tmp_path):
    """They are laid over each other, a colour each, and their differences are a table; tests belong to their run."""
    first, second = written(tmp_path / "version_0"), written(tmp_path / "version_1", options={}, best=2.25)
    written(first / "test" / "version_0", command="test", best=None, metrics={"test/loss": 2.625})
    page = report(first, second, "--output", tmp_path / "both.html")
    curves = [each for chart in charts(page) for each in chart["curves"] if each["name"].endswith("val/loss")]
    assert [each["name"] for each in curves] == [f"density/two_moons/version_{number}: val/loss" for number in (0, 1)]
    assert len({each["line"]["color"] for each in curves}) == 2
    cells = Tags(page).cells
    assert cells[cells.index("best val/loss") + 1 :][:2] == ["2.5", "2.25"]
    assert "2.625" in cells


def test_text_is_shown_as_text(tmp_path):
    """Markup in names, options, metrics and the configuration is not markup of the page."""
    folder = written(
        tmp_path / "version_0", recipe=EVIL, options={EVIL: EVIL}, metrics={f"val/{EVIL}": 1.0}, versions={EVIL: EVIL}
    )
    (folder / "config.yaml").write_text(EVIL)
    (folder / "metrics.csv").write_text(f'epoch,step,"val/{EVIL}"\n0,9,1.0\n1,19,2.0\n')
    plain = Tags(report(written(tmp_path / "version_1")))
    page = report(folder)
    assert EVIL not in page
    assert Tags(page).tags.count("script") == plain.tags.count("script")
    assert Tags(page).tags.count("img") == plain.tags.count("img")
    assert all("<" not in each["name"] for chart in charts(page) for each in chart["curves"])


def test_what_is_missing_is_said(tmp_path, capsys, monkeypatch):
    """A folder without a record, and a missing package, are one line each; a run without metrics is a page."""
    assert main(["report", str(tmp_path)]) == 2
    assert "is not the folder of a run" in capsys.readouterr().err
    folder = written(tmp_path / "version_0")
    (folder / "metrics.csv").unlink()
    assert "Over training" not in report(folder)
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    assert main(["report", str(folder)]) == 2
    assert "pip install 'odeflow[report]'" in capsys.readouterr().err


def test_recipes_know_results():
    """A comment of a recipe holds a metric, a value and a source; those that come with odeflow are read whole."""
    assert known_results("# A recipe\n# known: test/loss 1e-3, a paper, table 1\nmodel:\n") == [
        Known("test/loss", 1e-3, "a paper, table 1")
    ]
    for file in available().values():
        assert len(known_results(text(file))) == text(file).count("# known:")


def test_a_report_follows_no_links(command, tmp_path):
    """A link among the figures is not shown: it may lead to any file, and reports are passed on."""
    run = written(tmp_path / "linked")
    (tmp_path / "secret").write_text("secret")
    (run / "figures" / "x.svg").symlink_to(tmp_path / "secret")
    assert command(["report", str(run)]).status == 0
    assert base64.b64encode(b"secret").decode() not in (run / "report.html").read_text()


@pytest.mark.parametrize(
    ("name", "contents", "told"),
    [
        ("metrics.csv", b"epoch,step,val/loss\n0,x,1.0\n", "metrics.csv is damaged"),
        ("metrics.csv", b"epoch,step,val/loss\n0,\x00,1.0\xff\n", "metrics.csv is damaged"),
        ("figures/x.png", b"%!PS-Adobe-3.0 EPSF-3.0\n", "x.png is no picture"),
        ("run.json", b'{"command": "fit", "recipe": ["x"]}', "is not the folder of a run"),
        ("run.json", b'{"command": "fit", "recipe": "x", "metrics": [1]}', "is not the folder of a run"),
        ("run.json", b'{"command": "fit", "recipe": "x", "best": "low"}', "is not the folder of a run"),
        ("run.json", b"[" * 100_000, "is not the folder of a run"),
    ],
)
def test_a_damaged_run_is_refused(refused, tmp_path, name, contents, told):
    """A file of a run that is not what odeflow writes is an error that names it."""
    run = written(tmp_path / "damaged")
    (run / name).write_bytes(contents)
    assert told in refused(["report", str(run)])


def test_lists_of_runs_do_not_control_the_terminal(command, tmp_path):
    """Escape sequences in a record are not printed."""
    (tmp_path / "runs/x/version_0").mkdir(parents=True)
    record = {"command": "fit", "recipe": "\x1b]0;title\x07\x1b[2J", "options": {"a\x1b[31m": "\x1b[0m"}}
    (tmp_path / "runs/x/version_0/run.json").write_text(json.dumps(record))
    assert "\x1b" not in command("runs list").out
