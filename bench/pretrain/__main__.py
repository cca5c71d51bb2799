"""Pretrain the built-in backbone on drawn images: `python -m bench.pretrain --work DIR --out FILE`."""

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.pretrain.pool import PoolPlan
from bench.pretrain.train import Recipe, train


def main() -> None:
    """Parse the command line, train and show progress."""
    options = _read_options()
    if options.threads:
        torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    plan = PoolPlan(folder=options.work / "pool", seed=options.seed)
    limits = {"steps": options.steps or 0, "minutes": options.minutes}
    recipe = Recipe(pool=plan, work=options.work, out=options.out, seed=options.seed, **limits)
    console = Console()
    columns = (TextColumn("step {task.fields[step]}  loss {task.fields[loss]:.3f}"), BarColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("", total=1.0, step=0, loss=float("nan"))

        def report(step: int, share: float, loss: float, message: str) -> None:
            bar.update(task, completed=share, step=step, loss=loss)
            if message:
                console.print(f"{message}, loss {loss:.3f}")

        train(recipe, report)


def _read_options() -> argparse.Namespace:
    reader = argparse.ArgumentParser(prog="python -m bench.pretrain", description=__doc__)
    reader.add_argument("--work", type=Path, required=True, help="folder for the image pool and the checkpoint")
    reader.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    length = reader.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=55.0, help="training time in minutes (default: 55)")
    length.add_argument("--steps", type=int, help="number of training steps; makes the run reproducible")
    reader.add_argument("--seed", type=int, default=0, help="random seed of images and training (default: 0)")
    reader.add_argument("--threads", type=int, default=0, help="number of torch threads (default: chosen by torch)")
    return reader.parse_args()


if __name__ == "__main__":
    main()
