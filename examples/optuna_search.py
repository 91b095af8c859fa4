"""A search by Optuna over a solver's tolerance and a learning rate, one run of odeflow for each trial.

pip install "odeflow[optuna]"
python examples/optuna_search.py --recipe spiral --trials 20

Trials are in runs/<recipe>, as any run: `odeflow runs list` shows them. With `--storage sqlite:///search.db` several
processes share one search, and a stopped one goes on.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import optuna

from odeflow.config import record


def objective(trial: optuna.Trial, recipe: str, options: list[str]) -> float:
    """The best validation loss of a run, with options that the trial suggests."""
    suggested = {
        "model.solver.rtol": trial.suggest_float("rtol", 1e-7, 1e-3, log=True),
        "optimizer.lr": trial.suggest_float("lr", 1e-3, 1e-1, log=True),
    }
    before = {run.folder for run in record.found(Path("runs"))}
    words = [f"--{name}={value}" for name, value in suggested.items()]
    command = [sys.executable, "-m", "odeflow", "fit", "-c", recipe, *words, *options]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        print(ended.stderr[-500:])
        raise optuna.TrialPruned  # such as a solve that failed
    run = next(run for run in record.found(Path("runs")) if run.folder not in before)
    trial.set_user_attr("run", str(run.folder))
    assert run.best is not None
    return run.best


def main() -> None:
    """Searches, and prints the best trial."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="spiral")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--storage", help="a database that several processes share, such as sqlite:///search.db")
    given, options = parser.parse_known_args()
    study = optuna.create_study(
        study_name=given.recipe,
        storage=given.storage,
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=0),
    )
    study.optimize(lambda trial: objective(trial, given.recipe, options), n_trials=given.trials)
    print(f"best {study.best_value:.4g} with {study.best_params}: {study.best_trial.user_attrs['run']}")


if __name__ == "__main__":
    main()
