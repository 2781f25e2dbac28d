from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

# Nothing here asserts a time: a busy machine must not fail a property.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


@pytest.fixture(scope="module")
def traced_once() -> Iterator[None]:
    """The same weights give the same ONNX, and tracing them takes seconds: the tests of a file share it."""
    from spnas_hw.export import detector as exporting

    trace, known = exporting.detector_onnx, {}

    def traced(model: Any, detector: Any, size: Any) -> Any:
        state = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values()))
        key = (state.digest(), detector, size)
        if key not in known:
            known[key] = trace(model, detector, size)
        return copy.deepcopy(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "detector_onnx", traced)
        yield
