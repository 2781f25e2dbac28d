"""The trained weights of a trial: `weights.safetensors` in its folder."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from spnas_hw.errors import RunError

NAME = "weights.safetensors"


def load_weights(trial_folder: Path) -> dict[str, Tensor]:
    """The trained state dict of a trial. Raises RunError where there is none or it is damaged."""
    path = trial_folder / NAME
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing: the trial's weights were removed or never written") from error
    except Exception as error:  # safetensors raises its own kind, OSError and ValueError
        raise RunError(f"{path} cannot be read ({error}): train this trial again") from error


def save_weights(state: dict[str, Tensor], trial_folder: Path, code: str) -> None:
    """Writes a state dict whole or not at all; `code` is the architecture's, for people who look."""
    partial = trial_folder / "weights.partial"
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, partial, {"code": code})
    os.replace(partial, trial_folder / NAME)
