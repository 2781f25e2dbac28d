"""mmengine's Runner as every training here uses it: quiet, logging to one file, failing with one line."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import re
import shutil
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from spnas_hw.errors import DataError, TrainingError


@contextlib.contextmanager
def running(
    config: dict[str, Any],
    log: Path,
    on_iteration: Callable[[int, int], None],
    start: Callable[[nn.Module], object],
) -> Iterator[Runner]:
    """A Runner of `config`, whose work_dir is the log's folder and holds nothing else of it afterwards.

    Args:
        on_iteration: called with (done, total).
        start: called with the initialised model just before the first iteration, to load weights.

    Raises:
        TrainingError: what training can raise, in one line; the whole trace is in the log.
        DataError: as raised by a data set, in one line even from a worker process.
    """
    runner, quiet = None, contextlib.ExitStack()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            runner = Runner.from_cfg(Config(config))  # it would log to the terminal
        _log_to(runner, log)
        runner.register_hook(_Quiet(quiet), priority="VERY_LOW")
        runner.register_hook(_Start(start), priority="VERY_LOW")
        runner.register_hook(_Progress(on_iteration), priority="LOWEST")
        yield runner
    except (ArithmeticError, AssertionError, RuntimeError, ValueError) as error:
        with open(log, "a") as file:
            file.write(traceback.format_exc())
        raise TrainingError(f"{type(error).__name__}: {_one_line(error)}") from error
    except DataError as error:
        raise DataError(_one_line(error)) from error
    finally:
        quiet.close()
        if runner is not None:
            _close_log(runner)
        del runner
        gc.collect()


def seed_of(seed: int, trial_id: int) -> int:
    """A seed of 32 bits, which is what numpy's and torch's global generators take."""
    return int(np.random.SeedSequence([seed, trial_id]).generate_state(1)[0])


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or ["no message"]
    # A worker process sends its whole trace; the last line says what failed.
    if re.match(r"Caught \w+ in DataLoader worker", lines[0]):
        return lines[-1].split(": ", 1)[-1]
    return lines[0]


class _Quiet(Hook):
    """What is loaded before the first iteration is not told on stdout, which is for results."""

    def __init__(self, redirection: contextlib.ExitStack) -> None:
        self.redirection = redirection

    def before_run(self, runner: Runner) -> None:
        self.redirection.enter_context(contextlib.redirect_stdout(io.StringIO()))

    def before_train(self, runner: Runner) -> None:
        self.redirection.close()

    before_val = before_train


class _Start(Hook):
    def __init__(self, start: Callable[[nn.Module], object]) -> None:
        self.start = start

    def before_train(self, runner: Runner) -> None:
        self.start(runner.model.module if is_model_wrapper(runner.model) else runner.model)


class _Progress(Hook):
    def __init__(self, report: Callable[[int, int], None]) -> None:
        self.report = report

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        if outputs is not None and not bool(torch.isfinite(outputs["loss"])):
            raise FloatingPointError(f"the loss is not finite at iteration {runner.iter + 1}")
        self.report(runner.iter + 1, runner.max_iters)


def _log_to(runner: Runner, path: Path) -> None:
    """One log file, of the first process, and nothing on the terminal."""
    _close_log(runner)
    if not is_main_process():
        return
    shutil.rmtree(runner.log_dir, ignore_errors=True)
    for dump in path.parent.glob("*.py"):  # the configuration, which the journal has
        dump.unlink()
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    runner.logger.addHandler(handler)


def _close_log(runner: Runner) -> None:
    for handler in list(runner.logger.handlers):
        runner.logger.removeHandler(handler)
        handler.close()
