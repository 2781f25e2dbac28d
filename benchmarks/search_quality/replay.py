"""A search against the table: training is looking up, everything else is as in a real search.

The budget is the MACs of the costliest architecture in the table, and the table has no gaps below it: what
is not in the table is over the budget or outside the space. No strategy may train that, nor anything
twice; each proposes until it has something new (bounded tries). For the ancestor this is a kindness: it
had no budget, and would have trained what it could not use.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas
from tabular import Tabular

from spnas_hw.cost.pricer import Pricer
from spnas_hw.errors import SpaceExhausted
from spnas_hw.search.journal import Journal, Trial
from spnas_hw.search.loop import Evaluation, run
from spnas_hw.search.proposal import Proposal
from spnas_hw.search.searcher import Searcher
from spnas_hw.space.architecture import Architecture
from spnas_hw.space.codec import encode


@dataclass(frozen=True)
class Table:
    """mAP as a fraction of 1 and MACs of every architecture within the budget, by code."""

    tabular: Tabular
    mean_ap: dict[str, float]
    macs: dict[str, int]

    @cached_property
    def codes(self) -> tuple[str, ...]:
        return tuple(self.mean_ap)

    @cached_property
    def price(self) -> Pricer:
        config = self.tabular.configuration()
        return Pricer(config.detector, config.size, None)

    @property
    def best(self) -> float:
        return max(self.mean_ap.values())

    @property
    def budget(self) -> int:
        """MACs of the costliest architecture."""
        return max(self.macs.values())

    def objections(self, architecture: Architecture) -> tuple[str, ...]:
        return () if encode(architecture) in self.mean_ap else ("budget or space exceeded",)


def read_table(tabular: Tabular, path: Path) -> tuple[Table, pandas.DataFrame]:
    """What `path` holds: the table, of seed 0, and the mAP of all seeds, [architecture, seed]."""
    rows = pandas.read_csv(path)
    first = rows[rows.seed == 0]
    mean_ap = dict(zip(first.arch, first.mAP, strict=True))
    macs = {code: int(value) for code, value in zip(first.arch, first.macs, strict=True)}
    return Table(tabular, mean_ap, macs), rows.pivot(index="arch", columns="seed", values="mAP")


class InMemory(Journal):
    """A journal that is not written: thousands of replays would wait for the disk."""

    def __init__(self) -> None:
        self.trials: list[Trial] = []

    def append(self, trial: Trial) -> None:
        self.trials.append(trial)


def replay(searcher: Searcher, table: Table, samples: int, seed: int) -> list[Trial]:
    """The trials of one search; fewer than `samples` where the searcher found nothing new any more.

    Raises:
        ValueError: it asked for an architecture outside the table, or for one again.
    """
    journal = InMemory()

    def evaluate(proposal: Proposal, trial_id: int, parent_id: int | None) -> Evaluation:
        code = encode(proposal.child)
        if code not in table.mean_ap:
            raise ValueError(f"{code} is not in the table")
        if any(trial.code == code for trial in journal.trials):
            raise ValueError(f"{code} was trained already")
        # All trainings of the table began anew and were equally long: nothing adds up along a family.
        return Evaluation({"mAP": table.mean_ap[code]}, 1 if parent_id is None else 0)

    with suppress(SpaceExhausted):  # what it has found until then stands
        run(
            searcher,
            evaluate,
            journal,
            price=table.price,
            max_sample=samples,
            seed=seed,
            phase=table.tabular.phase,
        )
    return journal.trials
