from __future__ import annotations

from pathlib import Path

import pytest

from spnas_hw.errors import RunError
from spnas_hw.report.figures import cheaper_is_worse, cost_figure
from tests.search.trials import trial


def test_a_figure_is_drawn(tmp_path: Path) -> None:
    trials = [
        trial(0, "b_11_0", 0.1),
        trial(1, "b_12_0", 0.2, parent_id=0, parent_code="b_11_0"),
        trial(2, "b_22_0", None),
    ]
    baseline = trial(3, "b_11_0", 0.15)
    about = {"label": "latency (ms)", "title": "a device"}
    cost_figure(tmp_path / "a.png", trials, cost="latency_ms", budget=12.0, baseline=baseline, **about)
    cost_figure(tmp_path / "b.png", trials, cost="latency_ms", budget=None, baseline=None, **about)
    cost_figure(tmp_path / "c.png", trials, cost="macs", budget=None, baseline=None, label="MACs", title="")
    first, second = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert first.startswith(b"\x89PNG") and len(first) > 10_000 and first != second


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nothing to draw"):
        cost_figure(
            tmp_path / "a.png",
            [trial(0, "b_1_0", None)],
            cost="latency_ms",
            label="",
            budget=1.0,
            baseline=None,
            title="",
        )
    assert list(tmp_path.iterdir()) == []


def test_the_front_of_the_figure_is_that_of_its_two_axes() -> None:
    trials = [
        trial(0, "b_1_0", 0.2, latency_ms=10.0),
        trial(1, "b_2_0", 0.1, latency_ms=12.0),  # slower and worse, whatever its MACs
        trial(2, "b_11_0", 0.3, latency_ms=14.0),
        trial(3, "b_12_0", 0.1, latency_ms=5.0),
    ]
    assert [t.trial_id for t in cheaper_is_worse(trials, "latency_ms")] == [3, 0, 2]
    assert [t.trial_id for t in cheaper_is_worse(trials, "macs")] == [2]
