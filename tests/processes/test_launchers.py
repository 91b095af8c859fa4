"""Several machines: processes that are started one by one, each with what its launcher tells it, train one model."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = (
    "fit -c digits/ode_net --model.dynamics.channels 4 --trainer.accelerator cpu --trainer.strategy ddp "
    "--trainer.max_epochs 1 --trainer.limit_train_batches 2 --trainer.limit_val_batches 1 --trainer.log_every_n_steps 1 "
    "--trainer.enable_progress_bar false --trainer.enable_model_summary false"
)


def torchrun(rank: int, port: int) -> tuple[list[str], dict[str, str]]:
    """The launcher of one of two machines, as on its command line."""
    words = f"-m torch.distributed.run --nnodes 2 --nproc-per-node 1 --node-rank {rank} --master-addr 127.0.0.1"
    return [*words.split(), "--master-port", str(port), "-m", "odeflow"], {}


def slurm(rank: int, port: int) -> tuple[list[str], dict[str, str]]:
    """What srun sets for a task of a job of two machines with a task each."""
    given = {"JOB_ID": 1, "JOB_NAME": "fit", "NTASKS": 2, "NTASKS_PER_NODE": 1, "NNODES": 2}
    given |= {"PROCID": rank, "LOCALID": 0, "NODEID": rank, "NODELIST": "here"}
    environment = {f"SLURM_{name}": str(value) for name, value in given.items()}
    return ["-m", "odeflow"], environment | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


@pytest.mark.parametrize("launcher", [torchrun, pytest.param(slurm, marks=pytest.mark.slow)])
def test_two_machines_train_one_model(tmp_path: Path, launcher) -> None:
    """Each of two launchers starts a process; they meet, train one model, and write one run."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    options = f"{COMMAND} --trainer.num_nodes 2 --trainer.devices 1".split()
    started = []
    for rank in range(2):
        words, environment = launcher(rank, port)
        started.append(
            subprocess.Popen(
                [sys.executable, *words, *options],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    for each in started:
        said, _ = each.communicate(timeout=200)
        assert each.returncode == 0, said[-3000:]
    (run,) = (tmp_path / "runs/digits/ode_net").iterdir()
    record = json.loads((run / "run.json").read_text())
    assert (record["processes"], record["steps"], record["status"]) == (2, 2, "finished")
    assert record["metrics"]["nfe/imbalance"] >= 1
