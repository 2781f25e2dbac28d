"""ImageNet checkpoints of torchvision, timm and mmpretrain as start weights of a backbone.

All three name a ResNet's tensors alike (`conv1`, `layer1.0.conv2`, `layer1.0.downsample.0`, ...), as `SPNet`
does, but for what stands before the names and around the dictionary.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from spnas_hw.detection.backbone import SPNet
from spnas_hw.errors import DataError
from spnas_hw.space.architecture import Architecture
from spnas_hw.space.codec import encode

ENVELOPES = ("state_dict_ema", "state_dict", "model_ema", "model")
PREFIXES = ("module.", "model.", "backbone.")
BACKBONE = "backbone."
"""Before a backbone's names in a detector's state dict."""
_BRANCH = re.compile(r"branch(\d+)_\d+")


def load_backbone(path: Path, architecture: Architecture) -> dict[str, Tensor]:
    """The part of a detector's state dict that a classifier's checkpoint fills: the whole backbone but for
    the connections of sub-networks; sub-networks with weights of their own get those of their stage.

    Raises:
        DataError: the file is none, or belongs to another network; names the first tensor that differs.
    """
    given, code = _read(path), encode(architecture)
    state = {}
    for name, own in SPNet(code).state_dict().items():
        if name.startswith("connection") or name.endswith("num_batches_tracked"):
            continue
        source = _BRANCH.sub(r"layer\1", name)
        if source not in given:
            raise DataError(f"{path} lacks {source}, which {code} has: it belongs to another network")
        if given[source].shape != own.shape:
            theirs, ours = tuple(given[source].shape), tuple(own.shape)
            raise DataError(f"{path}: {source} is {theirs}, in {code} it is {ours}: another network")
        state[f"{BACKBONE}{name}"] = given[source].to(own.dtype)
    used = {_BRANCH.sub(r"layer\1", name.removeprefix(BACKBONE)) for name in state}
    for name in given:
        if name.startswith("layer") and name not in used and not name.endswith("num_batches_tracked"):
            raise DataError(f"{path} has {name}, which {code} has not: it belongs to another network")
    return state


def _read(path: Path) -> dict[str, Tensor]:
    """Tensors under their plain names."""
    try:
        if path.suffix == ".safetensors":
            document: Any = load_file(path)
        else:
            document = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError, ValueError) as error:
        raise DataError(
            f"{path} is no checkpoint of plain tensors, or damaged: save the model's state_dict() alone"
        ) from error
    for key in ENVELOPES:
        if isinstance(document, dict) and isinstance(document.get(key), dict):
            document = document[key]
    if not isinstance(document, dict):
        raise DataError(f"{path} is no state dict: it holds a {type(document).__name__}")
    found = {}
    for name, tensor in document.items():
        for prefix in PREFIXES:
            name = str(name).removeprefix(prefix)
        if isinstance(tensor, Tensor):
            found[name] = tensor
    return found
