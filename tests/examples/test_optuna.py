"""The search by Optuna: its trials are runs, and the best of them is named."""

import os

import pytest


def test_trials_are_runs(examples, shell, tmp_path):
    """Two short trials leave two runs, and the better one is printed."""
    pytest.importorskip("optuna")
    short = "--trials 2 --trainer.max_epochs 1 --trainer.limit_train_batches 2 --trainer.log_every_n_steps 1"
    ended = shell(tmp_path, PYTHONPATH=os.environ.get("PYTHONPATH", "")).run(
        examples / "optuna_search.py", *short.split()
    )
    assert ended.status == 0, ended.err
    runs = sorted(str(each.relative_to(tmp_path)) for each in tmp_path.glob("runs/spiral/version_*"))
    assert runs == ["runs/spiral/version_0", "runs/spiral/version_1"]
    assert ended.out.splitlines()[-1].rpartition(": ")[2] in runs
