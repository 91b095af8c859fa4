"""The present job of SLURM."""

import os


def job() -> str | None:
    """The number of the present job of SLURM, in an array also that of the task; None outside of a job."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return os.environ.get("SLURM_JOB_ID") if array is None else f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"


def requeued() -> bool:
    """Whether the present job of SLURM has run before."""
    return job() is not None and int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0
