"""Full training of one network, in one process or in several, that goes on where it was killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from spnas_hw.config import Dataset
from spnas_hw.cost.workload import Size
from spnas_hw.detection.pretrained import load_backbone
from spnas_hw.detection.reignition import reignite
from spnas_hw.detection.runner import seed_of
from spnas_hw.detection.training_process import FAILURE, METRICS, PARENT, START, TRAINING, Job, alone, train
from spnas_hw.detection.weights import load_weights, save_weights
from spnas_hw.errors import DataError, RunError, TrainingError
from spnas_hw.schedule import Reignition, Training
from spnas_hw.search.loop import Evaluation
from spnas_hw.search.proposal import Proposal
from spnas_hw.space.codec import encode
from spnas_hw.space.detector import Detector


@dataclass(frozen=True)
class FullTraining:
    """Trains one network, in `folder/<trial_id>`: `weights.safetensors` and `train.log`; while it goes on,
    `checkpoint.pth`, from which the same call continues after a kill.

    An evaluator as `ShortTraining`; `on_iteration` is called with (done, total).
    """

    folder: Path
    detector: Detector
    dataset: Dataset
    training: Training
    size: Size
    seed: int
    processes: int = 1
    on_iteration: Callable[[int, int], None] = lambda done, total: None
    reignition: Reignition | None = None

    def __call__(self, proposal: Proposal, trial_id: int, parent_id: int | None) -> Evaluation:
        """Raises TrainingError with the reason, the whole trace is in the trial's log; RunError where another
        process trains the same."""
        work_dir = self.folder / f"{trial_id:04d}"
        self._prepare(work_dir, proposal, trial_id, parent_id)
        with alone(work_dir):
            pass  # or it would be a failed trial
        if self.processes == 1:
            train(work_dir, self.on_iteration)
        else:
            launch(work_dir, self.processes, self.on_iteration)
        document = json.loads((work_dir / METRICS).read_text())
        return Evaluation(document["metrics"], document["iterations"])

    def _prepare(self, work_dir: Path, proposal: Proposal, trial_id: int, parent_id: int | None) -> None:
        """Puts down what to train and from what, unless it was."""
        if (work_dir / TRAINING).exists():
            return
        shutil.rmtree(work_dir, ignore_errors=True)  # killed before the first iteration
        start, code = work_dir / START, encode(proposal.child)
        start.mkdir(parents=True)
        state, extra = self._start(proposal, trial_id, parent_id, work_dir)
        if state is not None:
            save_weights(state, start, code)
        job = Job(
            code=code,
            detector=self.detector,
            dataset=self.dataset,
            training=self.training,
            height=self.size[0],
            width=self.size[1],
            seed=seed_of(self.seed, trial_id),
            processes=self.processes,
            extra=extra,
        )
        partial = work_dir / "training.partial"
        partial.write_text(json.dumps(asdict(job), default=str, allow_nan=False))
        os.replace(partial, work_dir / TRAINING)

    def _start(
        self, proposal: Proposal, trial_id: int, parent_id: int | None, work_dir: Path
    ) -> tuple[dict[str, Tensor] | None, dict[str, float]]:
        """The weights to start from, those of the parent before those of a checkpoint; None: none."""
        if parent_id is None:
            path = self.training.pretrained
            return (None if path is None else load_backbone(path, proposal.child)), {}
        state = load_weights(self.folder / f"{parent_id:04d}")
        if not proposal.reignite:
            return state, {}
        if self.reignition is None:
            raise RunError("a reignition was asked for, but the configuration has no key reignition")
        seed = seed_of(self.seed, trial_id)
        state, top1 = reignite(state, proposal.child, self.reignition, work_dir, seed, self.on_iteration)
        return state, {"top1": top1}


def launch(folder: Path, processes: int, on_iteration: Callable[[int, int], None]) -> None:
    """Trains a prepared folder in processes of this machine, through torchrun.

    Raises:
        TrainingError, DataError: as the process that failed said.
    """
    (folder / FAILURE).unlink(missing_ok=True)
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    program = [sys.executable, *torchrun, "-m", "spnas_hw.detection.training_process", str(folder)]
    environment = {**os.environ, PARENT: str(os.getpid())}
    with (
        open(folder / "torchrun.log", "a") as log,
        subprocess.Popen(program, stdout=subprocess.PIPE, stderr=log, text=True, env=environment) as running,
    ):
        try:
            assert running.stdout is not None
            for line in running.stdout:
                numbers = line.split()
                if len(numbers) == 2 and all(number.isdigit() for number in numbers):
                    on_iteration(int(numbers[0]), int(numbers[1]))
        except BaseException:
            running.terminate()  # torchrun ends its processes
            raise
    if running.returncode:
        _raise(folder, running.returncode)


def _raise(folder: Path, code: int) -> None:
    try:
        failure = json.loads((folder / FAILURE).read_text())
    except (OSError, ValueError):
        raise TrainingError(f"a training process ended with {code}: see {folder / 'torchrun.log'}") from None
    kind = DataError if failure["kind"] == "DataError" else TrainingError
    raise kind(failure["message"])


def visible_gpus() -> int:
    """How many GPUs torch can train on here."""
    return int(torch.cuda.device_count())
