"""`odeflow export`: extracts the weights of a checkpoint for sharing."""

from pathlib import Path

from odeflow.cli.options import Options
from odeflow.errors import SettingError
from odeflow.training import checkpoint, weights
from odeflow.training.task import stored_units


def export(words: list[str]) -> int:
    """Runs the command.

    Raises:
        OdeflowError: The options are invalid.
        CheckpointError: The checkpoint does not exist, or does not contain its model's spec.
        SettingError: The output file does not end with .safetensors.
    """
    description = "Writes a checkpoint's weights, with how their model is built, as safetensors."
    parser = Options("export", description)
    parser.add_argument("--ckpt_path", metavar="FILE", required=True, help="the checkpoint")
    parser.add_argument("--output", metavar="FILE", required=True, help="the file to write, *.safetensors")
    given = parser.read(words, ("ckpt_path", "output"))
    if Path(given.output).suffix != weights.SUFFIX:
        onnx = ". ONNX is written by torch.onnx.export: see docs/pytorch.md" if given.output.endswith(".onnx") else ""
        raise SettingError(f"--output must end with {weights.SUFFIX}; got {given.output}{onnx}")
    contents, spec = checkpoint.read(given.ckpt_path), checkpoint.specs(given.ckpt_path)["model"]
    weights.write(checkpoint.state(contents, given.ckpt_path), spec, given.output, stored_units(contents))
    print(f"{given.output}: {Path(given.output).stat().st_size:,} bytes")  # noqa: T201
    return 0
