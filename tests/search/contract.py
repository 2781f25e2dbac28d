"""What every searcher promises; subclass it with `make` and `space`."""

from __future__ import annotations

import numpy as np

from spnas_hw.space.architecture import Architecture
from spnas_hw.space.codec import encode
from spnas_hw.space.search_space import SearchSpace
from tests.search.trials import trial


def metric(architecture: Architecture) -> float:
    """A made-up quality: deeper is better."""
    return architecture.depth / 100


class SearcherContract:
    space: SearchSpace

    def make(self, objections):
        raise NotImplementedError

    def told(self, samples: int, seed: int, objections=lambda architecture: ()) -> list:
        searcher = self.make(objections)
        morphisms = []
        for index in range(samples):
            morphism = searcher.ask(np.random.default_rng([seed, index]))
            morphisms.append(morphism)
            searcher.tell(trial(index, encode(morphism.child), metric(morphism.child)))
        return morphisms

    def test_never_the_same_twice(self) -> None:
        codes = [encode(morphism.child) for morphism in self.told(40, 0)]
        assert len(set(codes)) == len(codes)

    def test_candidates_are_inside_the_space(self) -> None:
        for morphism in self.told(40, 1):
            assert self.space.violations(morphism.child) == ()

    def test_candidates_have_no_objection(self) -> None:
        def shallow(architecture: Architecture) -> tuple[str, ...]:
            return () if architecture.depth <= 10 else ("too deep",)

        assert max(morphism.child.depth for morphism in self.told(20, 2, shallow)) <= 10

    def test_parents_were_told(self) -> None:
        morphisms = self.told(20, 3)
        codes = [encode(morphism.child) for morphism in morphisms]
        for index, morphism in enumerate(morphisms[1:], 1):
            assert encode(morphism.parent) in codes[:index]

    def test_the_same_seed_asks_the_same(self) -> None:
        first, second, other = self.told(15, 4), self.told(15, 4), self.told(15, 5)
        assert first == second != other

    def test_a_resumed_searcher_goes_on_the_same(self) -> None:
        whole = self.told(10, 6)
        searcher = self.make(lambda architecture: ())
        for index, morphism in enumerate(whole[:6]):
            searcher.tell(trial(index, encode(morphism.child), metric(morphism.child)))
        assert searcher.ask(np.random.default_rng([6, 6])) == whole[6]
