"""Occasional metrics: those of which a batch may have nothing, such as errors at times that it does not contain."""

import torch
from torch import nn
from torchmetrics import MeanMetric, Metric

import odeflow as of


def log_occasional(task: of.Task, metrics: nn.Module, stage: str, shown: tuple[str, ...] = ()) -> None:
    """Logs at the end of an epoch the metrics that were updated in it, in any process.

    Processes compute metrics together, so that all must log the same ones in the same order. Logged in a step, metrics
    that some batches lack would differ between processes, which then wait for each other or mix their numbers.

    Args:
        task: The task that logs.
        metrics: A `ModuleDict` of metrics.
        stage: "val" or "test".
        shown: The names that the progress bar shows.
    """
    named = {name: metric for name, metric in metrics.named_children() if isinstance(metric, Metric)}
    updated = torch.tensor([float(metric.update_called) for metric in named.values()], device=task.device)
    for (name, metric), times in zip(named.items(), task.summed(updated).tolist(), strict=True):
        if times:
            if not metric.update_called:
                nothing = torch.empty(0, device=task.device)
                metric.update(*[nothing] * (1 if isinstance(metric, MeanMetric) else 2))
            task.log(f"{stage}/{name}", metric, prog_bar=name in shown, on_step=False, on_epoch=True)  # pyright: ignore[reportArgumentType]
