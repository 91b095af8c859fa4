"""Weights & Biases: what a run leaves in its own record, read back from the file that would be uploaded."""

import contextlib
import csv
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
import yaml
from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 32 * 1024, struct.Struct("<IHB")  # of a LevelDB log: crc32, length, type
FULL, FIRST, LAST = 1, 2, 4


def records(file: Path) -> Iterator[wandb_internal_pb2.Record]:
    """The records of a `.wandb` file: after 7 bytes, blocks of chunks, of which one or several make a record."""
    contents, at, message = file.read_bytes(), 7, b""
    while at + HEADER.size <= len(contents):
        if BLOCK - at % BLOCK < HEADER.size:  # too short for a header: the rest of the block is empty
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = HEADER.unpack_from(contents, at)
        at += HEADER.size
        chunk = contents[at : at + length]
        at += length
        message = chunk if kind in (FULL, FIRST) else message + chunk
        if kind in (FULL, LAST):
            yield wandb_internal_pb2.Record.FromString(message)


class Record:
    """What one run recorded."""

    def __init__(self, folder: Path) -> None:
        (file,) = folder.glob("*.wandb")
        self.folder, self.all = folder, list(records(file))
        runs = [record.run for record in self.all if record.HasField("run")]
        assert len(runs) == 1, (file.stat(), [record.WhichOneof("record_type") for record in self.all])
        self.run = runs[0]
        self.home = folder.parents[1] / self.run.display_name / "version_0"

    @property
    def configs(self) -> list[tuple[str, object]]:
        """The (key, value) pairs of the configuration, in the order of recording, W&B's own left out."""
        updates = [*self.run.config.update]
        updates += [item for record in self.all if record.HasField("config") for item in record.config.update]
        pairs = [("/".join([item.key, *item.nested_key]).strip("/"), json.loads(item.value_json)) for item in updates]
        return [(key, value) for key, value in pairs if not key.startswith("_wandb")]

    def history(self, name: str) -> list[object]:
        """The values that were logged under a name."""
        items = [item for record in self.all if record.HasField("history") for item in record.history.item]
        return [json.loads(item.value_json) for item in items if item.key == name or list(item.nested_key) == [name]]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, command) -> list[Record]:
    """The records of a run of spiral, of one of digits/ode_net, and of a prediction by the latter, in one folder."""
    folder = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        for variable in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"):
            patch.setenv(variable, str(folder / "home"))
        for variable in ("WANDB_DIR", "WANDB_PROJECT", "WANDB_NAME", "WANDB_API_KEY", "WANDB_RUN_ID"):
            patch.delenv(variable, raising=False)
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        brief = (
            "--trainer.logger WandbLogger --trainer.max_epochs 1 --trainer.limit_train_batches 3 "
            "--trainer.log_every_n_steps 1 --trainer.enable_progress_bar false --trainer.enable_model_summary false"
        )
        for words in (
            f"fit -c spiral --data.observations 20 {brief} --trainer.logger.log_model true",
            f"fit -c digits/ode_net --model.dynamics.channels 4 {brief}",
            "predict --ckpt_path runs/digits/ode_net/version_0/checkpoints/last.ckpt --trainer.logger WandbLogger",
        ):
            outcome = command(words)
            assert outcome.status == 0, outcome.err
            wandb.finish()
        wandb.teardown()  # its process ends, so that all is written
        return [Record(each) for each in Path("runs/wandb").resolve().glob("offline-run-*")]


@pytest.fixture(scope="module")
def offline(recorded) -> list[Record]:
    """The records of the two runs."""
    return [each for each in recorded if each.run.job_type == "fit"]


@pytest.fixture(scope="module")
def predicted(recorded) -> Record:
    """The record of the prediction."""
    (record,) = [each for each in recorded if each.run.job_type == "predict"]
    return record


def test_a_run_is_named_after_its_recipe(offline):
    """The project is odeflow, the run's name the recipe's."""
    assert {record.run.project for record in offline} == {"odeflow"}
    assert {record.run.display_name for record in offline} == {"spiral", "digits/ode_net"}


def test_runs_are_grouped_by_recipe_and_command(offline):
    """The group is the recipe, the job type the command; both are tags; the summary of the monitored metric is its best."""
    assert {tuple(record.run.tags) for record in offline} == {("spiral", "fit"), ("digits/ode_net", "fit")}
    assert {(record.run.run_group, record.run.job_type) for record in offline} == {
        ("spiral", "fit"),
        ("digits/ode_net", "fit"),
    }
    summaries = {
        record.run.display_name: [
            (each.metric.name, each.metric.summary.max) for each in record.all if each.HasField("metric")
        ]
        for record in offline
    }
    assert ("val/accuracy", True) in summaries["digits/ode_net"]
    assert ("val/loss", False) in summaries["spiral"]


def test_the_configuration_is_recorded_once_and_nested(offline):
    """Model, data and trainer are nested and said once, with no flattened duplicates such as `model/solver/rtol`."""
    for record in offline:
        keys = [key for key, _ in record.configs]
        assert len(keys) == len(set(keys))
        assert {"model", "data", "trainer", "optimizer", "lr_scheduler", "seed_everything"} <= set(keys)
        assert not [key for key in keys if "/" in key or "." in key]
        config = dict(record.configs)
        kept = yaml.safe_load((record.home / "config.yaml").read_text())
        assert config["model"] == kept["model"]
        assert config["data"] == kept["data"]
    (solver,) = [
        dict(each.configs)["model"]["init_args"]["solver"] for each in offline if each.run.display_name == "spiral"
    ]
    assert solver["class_path"].endswith("Dopri5")
    assert solver["init_args"]["rtol"] == 1e-5


def test_losses_and_statistics_are_logged(offline):
    """Each step has its loss and the solver's statistics, each epoch the validation's loss."""
    for record in offline:
        for name in ("train/loss", "nfe/forward", "nfe/backward", "steps/accepted", "steps/rejected"):
            values = record.history(name)
            assert len(values) == 3, name
            assert all(isinstance(value, (int, float)) for value in values), name
        assert len(record.history("val/loss")) == len(record.history("train/loss_epoch")) == 1
        assert min(record.history("nfe/forward")) > 0
        assert min(record.history("nfe/backward")) > 0


def test_metrics_are_in_a_file_too(offline):
    """The run's folder has a metrics.csv with the losses that W&B has."""
    for record in offline:
        with (record.home / "metrics.csv").open() as file:
            losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")]
        assert losses == pytest.approx(record.history("train/loss"))


def test_pictures_are_logged(offline):
    """The pictures at the start, midway and at the end are in the run's media."""
    (record,) = [each for each in offline if each.run.display_name == "spiral"]
    pictures = list((record.folder / "files/media/images").rglob("*.png"))
    assert len(pictures) == 3
    items = [item for each in record.all if each.HasField("history") for item in each.history.item]
    logged = [
        json.loads(item.value_json)
        for item in items
        if list(item.nested_key) == ["figures/phase_portrait", "filenames"]
    ]
    assert [len(names) for names in logged] == [1, 1, 1]
    assert {Path(name).name for names in logged for name in names} == {picture.name for picture in pictures}


def test_each_run_keeps_its_own_files(offline):
    """config.yaml and the checkpoints lie in the run's own folder, and no run overwrites another's."""
    tasks = {}
    for record in offline:
        config = yaml.safe_load((record.home / "config.yaml").read_text())
        tasks[record.run.display_name] = config["model"]["class_path"].rpartition(".")[2]
        assert (record.home / "checkpoints/best.ckpt").is_file()
        assert (record.home / "checkpoints/last.ckpt").is_file()
        assert json.loads((record.home / "run.json").read_text())["status"] == "finished"
    assert tasks == {"spiral": "Trajectory", "digits/ode_net": "Classification"}
    assert not list(offline[0].home.parents[1].glob("*.yaml"))
    assert not list(offline[0].home.parents[2].glob("*.yaml"))


def test_checkpoints_are_artifacts_by_one_option(offline):
    """`--trainer.logger.log_model true` records the best checkpoint; without it none is."""
    artifacts = {
        record.run.display_name: [each.artifact.name for each in record.all if each.HasField("artifact")]
        + [each.request.log_artifact.artifact.name for each in record.all if each.request.HasField("log_artifact")]
        for record in offline
    }
    (spiral,) = [each for each in offline if each.run.display_name == "spiral"]
    assert artifacts == {"spiral": [f"model-{spiral.run.run_id}"], "digits/ode_net": []}


def test_an_evaluation_is_linked_to_its_run(offline, predicted):
    """Its group is the recipe's, its job type the command, and its configuration names the run that was trained."""
    (run,) = [each for each in offline if each.run.display_name == "digits/ode_net"]
    assert (predicted.run.run_group, predicted.run.display_name) == ("digits/ode_net", "digits/ode_net")
    assert dict(predicted.configs)["evaluated"] == {"name": "odeflow", "id": run.run.run_id}
    assert json.loads((run.home / "run.json").read_text())["trackers"]["WandbLogger"]["id"] == run.run.run_id


def test_predictions_are_a_table(predicted):
    """A row for each sample, a column for each class."""
    (file,) = (predicted.folder / "files/media/table").rglob("*.table.json")
    table = json.loads(file.read_text())
    assert table["columns"] == [f"prediction_{number}" for number in range(10)]
    assert len(table["data"]) == 300
    assert sum(table["data"][0]) == pytest.approx(1, abs=1e-4)
