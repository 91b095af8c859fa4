"""The short help of `odeflow fit | validate | test | predict`, which needs neither torch nor Lightning."""

USAGE = {
    "fit": """\
usage: odeflow fit -c RECIPE [-c OVERLAY …] [--OPTION VALUE …]

Trains a model, and says at the end where its files are:

  odeflow fit -c spiral --model.solver RK4 --model.solver.num_steps 10
""",
    "validate": """\
usage: odeflow validate --ckpt_path FILE [--OPTION VALUE …]
       odeflow validate -c RECIPE [--weights [FILE]] [--OPTION VALUE …]

Evaluates a trained model on the validation part of its data.
""",
    "test": """\
usage: odeflow test --ckpt_path FILE [--OPTION VALUE …]
       odeflow test -c RECIPE [--weights [FILE]] [--OPTION VALUE …]

Evaluates a trained model on the test part of its data, also with another solver:

  odeflow test --ckpt_path runs/spiral/version_0/checkpoints/best.ckpt --model.solver Tsit5 --model.solver.rtol 1e-8
""",
    "predict": """\
usage: odeflow predict --ckpt_path FILE [--data.path NEW] [--output TABLE] [--OPTION VALUE …]

Writes predictions: predictions.pt in the run's folder, or a table *.csv, *.parquet or *.npz:

  odeflow predict --ckpt_path best.ckpt --data.path new.csv --output predictions.csv
""",
}
COMMON = """
  -c RECIPE              name (odeflow recipes list) or YAML file; each further one is laid over those before it
  --weights [FILE]       begin with trained weights: a checkpoint or *.safetensors; without FILE the recipe's own
  --ckpt_path FILE       {ckpt_path}
  --plugins FILE         add plugins of a file, a folder or a module; may be repeated
  --seed_everything N    seed of all random numbers
  --print_config         print the whole configuration, and end

What people change:

  --model.solver NAME    another solver (odeflow plugins list solver); --model.solver.rtol 1e-6, its options
  --model.gradient NAME  another gradient (odeflow plugins list gradient)
  --model.dynamics NAME  another vector field (odeflow plugins list dynamics)
  --model.OPTION V       an option of the task, --data.OPTION V of the data, such as --data.batch_size 32
{training}  --trainer.accelerator gpu, --trainer.devices 2, --trainer.precision bf16-mixed
  --trainer.logger NAME  WandbLogger, TensorBoardLogger, MLFlowLogger; by default CSVLogger. Lists log to several
  --trainer.callbacks+ NAME   one more callback, such as EarlyStopping; --trainer.callbacks.patience 5, its options

  --figures.format pdf   of the figures: png, pdf or svg; --figures.style NAME of Matplotlib, or a file *.mplstyle

More:

  odeflow plugins show NAME      every option of a solver, task, data set, …
  odeflow recipes show NAME      what a recipe sets
  odeflow {command} --help-all{gap}  every option of the trainer and of this command
  --optimizer.help NAME, --lr_scheduler.help NAME, --trainer.logger.help NAME, --trainer.callbacks.help NAME
"""
TRAINING = """\
  --optimizer.lr 1e-3    the learning rate; --optimizer NAME of torch.optim, --lr_scheduler NAME
  --trainer.max_epochs 5 how long to train; --trainer.limit_train_batches 10 tries less
  --saving.every_n_train_steps 100    checkpoints within an epoch, from which --ckpt_path last goes on
  --faults.on_nonfinite skip  what follows a step that fails: stop, skip or rewind; --faults.evaluations, a budget
"""


def usage(command: str) -> str:
    """The short help of a command.

    Args:
        command: fit, validate, test or predict.
    """
    fit = command == "fit"
    path = 'resume the run of a checkpoint; "last" or "best": that of the recipe\'s newest run'
    text = COMMON.format(
        command=command,
        gap=" " * (10 - len(command)),
        ckpt_path=path if fit else "the checkpoint, which says model and data, so that no recipe is needed",
        training=TRAINING if fit else "",
    )
    return USAGE[command] + text
