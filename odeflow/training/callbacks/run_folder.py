"""The folder of a run's files."""

from pathlib import Path

from lightning.pytorch import Trainer


def run_folder(trainer: Trainer) -> Path:
    """The folder of this run, which also contains its checkpoints: `<save_dir>/<name>/<version>` of the first logger.

    `trainer.log_dir` is unsuitable: with W&B it is the parent folder shared by all runs.
    """
    if not trainer.loggers:
        return Path(trainer.default_root_dir)
    logger = trainer.loggers[0]
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return Path(logger.save_dir or trainer.default_root_dir) / str(logger.name) / version
