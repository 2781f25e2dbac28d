"""What every searcher promises; subclass it with `make` and `space`."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np

from spnas_hw.space.architecture import Architecture
from spnas_hw.space.codec import encode
from spnas_hw.space.search_space import SearchSpace
from tests.search.trials import trial


def metric(architecture: Architecture, index: int) -> float:
    """A made-up quality: deeper is better, and training again gives another value."""
    return architecture.depth / 100 + 0.06 * float(np.random.default_rng(index).random())


class SearcherContract:
    space: SearchSpace

    def make(self, objections):
        raise NotImplementedError

    def told(self, samples: int, seed: int, objections=lambda architecture: ()) -> list:
        searcher = self.make(objections)
        proposals = []
        for index in range(samples):
            proposals.append(searcher.ask(np.random.default_rng([seed, index])))
            self.tell(searcher, index, proposals[-1])
        return proposals

    def tell(self, searcher, index: int, proposal) -> None:
        child = proposal.child
        found = trial(
            index, encode(child), metric(child, index), rung=proposal.rung, operator=proposal.operator
        )
        searcher.tell(found)

    def test_never_the_same_twice(self) -> None:
        new = [p for p in self.told(40, 0) if p.operator not in ("promote", "reignite")]
        assert len({encode(proposal.child) for proposal in new}) == len(new)

    def test_candidates_are_inside_the_space(self) -> None:
        for proposal in self.told(40, 1):
            assert self.space.violations(proposal.child) == ()

    def test_candidates_have_no_objection(self) -> None:
        def shallow(architecture: Architecture) -> tuple[str, ...]:
            return () if architecture.depth <= 10 else ("too deep",)

        assert max(proposal.child.depth for proposal in self.told(20, 2, shallow)) <= 10

    def test_parents_were_told(self) -> None:
        proposals = self.told(20, 3)
        codes = [encode(proposal.child) for proposal in proposals]
        for index, proposal in enumerate(proposals[1:], 1):
            assert encode(proposal.morphism.parent) in codes[:index]

    def test_the_weights_of_parents_were_kept(self) -> None:
        searcher = self.make(lambda architecture: ())
        latest: dict[str, int] = {}
        for index in range(60):
            needed = searcher.needed()
            proposal = searcher.ask(np.random.default_rng([7, index]))
            if index:
                assert latest[encode(proposal.morphism.parent)] in needed
            self.tell(searcher, index, proposal)
            latest[encode(proposal.child)] = index

    def test_the_same_seed_asks_the_same(self) -> None:
        first, second, other = self.told(15, 4), self.told(15, 4), self.told(15, 5)
        assert first == second != other

    def test_a_replayed_searcher_is_the_same(self) -> None:
        whole = self.told(10, 6)
        live, replayed = self.make(lambda architecture: ()), self.make(lambda architecture: ())
        for index, proposal in enumerate(whole[:6]):
            live.ask(np.random.default_rng([6, index]))
            self.tell(live, index, proposal)
        for index, proposal in enumerate(whole[:6]):
            self.tell(replayed, index, proposal)
        assert replayed.history == live.history
        assert (
            replayed.ask(np.random.default_rng([6, 6])) == live.ask(np.random.default_rng([6, 6])) == whole[6]
        )

    def story(self) -> str:
        """What a search of this process asks for, in short."""
        return hashlib.sha256(repr(self.told(12, 8)).encode()).hexdigest()

    def test_another_process_asks_the_same(self) -> None:
        kind = type(self)
        code = f"from {kind.__module__} import {kind.__name__} as kind; print(kind().story())"
        for hash_seed in ("1", "2"):
            environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
            ran = subprocess.run(
                [sys.executable, "-c", code], env=environment, capture_output=True, text=True
            )
            assert ran.stdout.strip() == self.story(), ran.stderr
