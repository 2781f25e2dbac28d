"""What people see, from values made by hand."""

from __future__ import annotations

from rich.console import Console

from spnas_hw import console
from spnas_hw.cost.accuracy import Attribution, accuracy
from spnas_hw.pipeline.validation import HeldOut, Proof


def shown(renderable: object, width: int = 80) -> str:
    screen = Console(width=width)
    with screen.capture() as captured:
        screen.print(renderable)
    return captured.get()


def test_a_proof_fits_a_terminal() -> None:
    good, poor = accuracy([1.0, 2.02, 3.0], [1.0, 2.0, 3.0]), accuracy([1.3, 1.9, 4.0], [1.0, 2.0, 3.0])
    proof = Proof(
        table="t",
        seed=0,
        prediction=good,
        uncorrected=good,
        isolated=poor,
        macs=poor,
        floor=good,
        drift=(1.0, 1.1),
        anchor_drift=(1.0, 1.0),
        blamed=[Attribution("basic-16-16-s1-48x96", 7, 0.5, -0.025)],
        networks=[HeldOut("b_1", 1.0, 1.0, (1.0, 1.0))],
    )
    text = shown(console.proof_tables(proof))
    assert "3 held-out detectors" in text and "basic-16-16-s1-48x96" in text and "0.4750" in text
    (row,) = [line for line in text.splitlines() if "prediction" in line]
    assert row.split()[1:] == ["0.3", "0.6", "0.3", "1.0", "100.0", "100.0", "1.0000", "1.0000"]
    assert "…" not in text
