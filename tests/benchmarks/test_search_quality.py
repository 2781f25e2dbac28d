from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas
import pytest
import typer
from compare import OURS, PLAIN, RESULT, best_so_far, hypervolume, main, makers, noise, win_rates
from parallel_strategies import ANCESTOR_ODDS, ParallelAncestor, mutate, stack
from replay import Table, replay
from serial_strategies import ancestor_operator, ancestor_swap, ancestor_weights
from tabular import BRANCHES, Tabular

from spnas_hw.search.journal import Phase
from spnas_hw.search.proposal import Proposal
from spnas_hw.space.architecture import BRANCHES_MAX, Architecture
from spnas_hw.space.codec import decode, encode
from spnas_hw.space.morphism import unchanged

SERIAL, PARALLEL = Tabular("serial"), Tabular("parallel")
RIVALS = ("random", "ancestor", "regularised evolution", "NSGA-II")


def deep_and_narrow(code: str) -> float:
    """A made-up quality without noise: deep and narrow is good, with the blocks and the doubling late."""
    stages = [stage.doubles for stage in decode(code).stages]
    blocks = [double for stage in stages for double in stage]
    late = 0.003 * (len(stages[-1]) - len(stages[0])) + 0.004 * blocks.index(True)
    return round(0.1 + 0.01 * len(blocks) - 0.02 * sum(blocks) + late, 4)


def less_and_less_worth(code: str) -> float:
    """Another: each further sub-network of a stage is worth less; own weights help."""
    worth = zip((0.004, 0.010, 0.007), decode(code).stages, strict=True)
    return round(0.1 + sum(w * (s.branches**0.5 + 0.3 * s.own_weights) for w, s in worth), 4)


def cheapest(tabular: Tabular, count: int) -> Table:
    quality = deep_and_narrow if tabular.phase == "serial" else less_and_less_worth
    ranked = tabular.cheapest_first()[:count]
    return Table(tabular, {code: quality(code) for _, code in ranked}, {code: macs for macs, code in ranked})


@pytest.fixture(scope="module")
def tables() -> dict[Phase, Table]:
    """Both without their costliest architectures, which are infeasible for that."""
    return {"serial": cheapest(SERIAL, 320), "parallel": cheapest(PARALLEL, 110)}


@pytest.mark.parametrize("name", (OURS, PLAIN, *RIVALS))
@pytest.mark.parametrize("phase", ("serial", "parallel"))
def test_a_strategy_trains_feasible_architectures_once_and_the_same_again(
    phase: Phase, name: str, tables: dict[Phase, Table]
) -> None:
    table = tables[phase]
    make = makers(table)[name]
    runs = [replay(make(), table, 15, seed) for seed in (3, 3, 4)]
    first, again, other = ([trial.code for trial in trials] for trials in runs)
    assert first == again != other
    assert first[0] == other[0] == f"{table.tabular.configuration().start}_0-0-0"
    assert len(set(first)) == len(first) == 15
    assert set(first) <= set(table.codes)
    assert {trial.phase for trial in runs[0]} == {phase}
    # Nothing adds up along a family: every training of the table was equally long.
    assert {trial.iterations for trial in runs[0]} == {1}


def test_nothing_outside_the_table_is_trained(tables: dict[Phase, Table]) -> None:
    class Stubborn:
        def ask(self, rng: object) -> Proposal:
            return Proposal(unchanged(decode("b16_1-1-2")))

        def tell(self, trial: object) -> None:
            pass

        def needed(self) -> set[int]:
            return set()

    with pytest.raises(ValueError, match="trained already"):
        replay(Stubborn(), tables["serial"], 2, 0)
    with pytest.raises(ValueError, match="not in the table"):
        replay(Stubborn(), Table(SERIAL, {}, {}), 2, 0)


@pytest.mark.parametrize(
    ("phase", "other"), (("serial", "b16_1-2-1_0-0-0"), ("parallel", "b16_11-2-2_0-1-0"))
)
def test_a_small_table_ends_a_search_early(phase: Phase, other: str, tables: dict[Phase, Table]) -> None:
    table = tables[phase]
    codes = (f"{table.tabular.configuration().start}_0-0-0", other)
    few = Table(table.tabular, {code: table.mean_ap[code] for code in codes}, table.macs)
    for name in RIVALS:
        assert 1 <= len(replay(makers(few)[name](), few, 5, 0)) <= 2


@pytest.mark.parametrize("phase", ("serial", "parallel"))
def test_ours_beats_random_on_a_smooth_table(phase: Phase, tables: dict[Phase, Table]) -> None:
    table = tables[phase]
    found = {
        name: [max(t.mean_ap or 0.0 for t in replay(makers(table)[name](), table, 20, s)) for s in range(8)]
        for name in (OURS, "random")
    }
    assert np.mean(found[OURS]) > np.mean(found["random"])
    assert sum(a > b for a, b in zip(found[OURS], found["random"], strict=True)) >= 6


def test_the_ancestors_operators_are_as_frequent_as_its_code_makes_them() -> None:
    rng = np.random.default_rng(0)
    drawn = Counter(ancestor_operator(rng) for _ in range(20_000))
    found = {kind: count / 20_000 for kind, count in drawn.items()}
    expected = {"expand": 0.233, "swap": 0.333, "add_stage": 0.317, None: 0.117}
    assert found == pytest.approx(expected, abs=0.012)


@pytest.mark.parametrize("memory_mb", ([5.0, 4.0, 3.0, 2.0, 1.0], [1.0] * 5))
def test_the_ancestors_best_parent_is_the_least_likely(memory_mb: list[float]) -> None:
    assert ancestor_weights(memory_mb) == pytest.approx([0.002, 0.146, 0.229, 0.289, 0.335], abs=6e-4)


def test_the_ancestors_weights_of_two_of_one_and_by_memory() -> None:
    assert ancestor_weights([2.0, 1.0]) == pytest.approx([0.014, 0.986], abs=6e-4)
    assert ancestor_weights([7.0]) == [1.0]
    # By memory the second comes first: 0.70 + 0.01, then the first reads the new 0.71.
    assert ancestor_weights([1.0, 2.0]) == pytest.approx([0.72 / 1.43, 0.71 / 1.43])


def test_the_ancestors_swap_keeps_blocks_and_stages() -> None:
    rng = np.random.default_rng(0)
    found = {ancestor_swap("12-111-21", rng) for _ in range(200)}
    assert "12-111-21" not in found and len(found) > 5
    for serial in found:
        assert serial.replace("-", "") == "1211121" and serial.count("-") == 2 and decode(f"b16_{serial}")


@pytest.mark.parametrize("serial", ("1-1", "12", "1-2-1"))
def test_the_ancestors_endless_swap_ends(serial: str) -> None:
    with pytest.raises(ValueError, match="no other place"):
        ancestor_swap(serial, np.random.default_rng(0))


def sub_networks(architecture: Architecture) -> list[tuple[int, bool]]:
    return [(stage.branches, stage.own_weights) for stage in architecture.stages]


def test_the_parallel_ancestor_draws_every_stage_by_itself_with_fixed_odds() -> None:
    ancestor = ParallelAncestor(decode("b16_11-2-2"), ())
    rng = np.random.default_rng(0)
    drawn = [sub_networks(ancestor.draw(rng).child) for _ in range(4000)]
    counts = np.array([[count for count, _ in stages] for stages in drawn])
    for stage in range(3):
        assert np.bincount(counts[:, stage]) / 4000 == pytest.approx(ANCESTOR_ODDS, abs=0.03)
    assert np.abs(np.corrcoef(counts.T) - np.eye(3)).max() < 0.05
    assert not any(own for stages in drawn for _, own in stages)
    assert ANCESTOR_ODDS == (0.4, 0.3, 0.2, 0.1)


def test_the_parallel_ancestor_draws_until_it_has_something_new(tables: dict[Phase, Table]) -> None:
    """Of 27 with shared weights, those that fit: then it is at its end."""
    table = tables["parallel"]
    shared = {code for code in table.codes if "o" not in code}
    trials = replay(makers(table)["ancestor"](), table, 40, 0)
    assert {trial.code for trial in trials} == shared and len(trials) == len(shared)


def test_a_mutation_changes_one_sub_network_or_one_kind_and_reaches_all() -> None:
    rng = np.random.default_rng(0)
    reached = {"b16_11-2-2_0-0-0"}
    for _ in range(4000):
        parent = decode(sorted(reached)[int(rng.integers(len(reached)))])
        try:
            child = mutate(parent, rng).child
        except ValueError:
            continue
        steps = [
            (before, after)
            for before, after in zip(sub_networks(parent), sub_networks(child), strict=True)
            if before != after
        ]
        ((count, own), (new, new_own)) = steps[0]
        assert len(steps) == 1 and abs(new - count) + (own != new_own and 0 not in (count, new)) == 1
        if max(stage.branches for stage in child.stages) <= 1:
            reached.add(encode(child))
    assert len(reached) == 3**3


@pytest.mark.parametrize("own", (False, True))
def test_a_mutation_cannot_take_from_nothing_nor_add_to_the_most(own: bool) -> None:
    serial = decode("b16_11-2-2")
    for seed in range(20):
        for count, expected in ((0, {1}), (BRANCHES_MAX, {BRANCHES_MAX - 1, BRANCHES_MAX})):
            parent = stack(serial, [count] * 3, [own] * 3)
            try:
                child = mutate(parent, np.random.default_rng(seed)).child
            except ValueError:
                continue
            changed = set(sub_networks(child)) - set(sub_networks(parent))
            assert {new for new, _ in changed} <= expected and len(changed) == 1


@pytest.mark.parametrize("phase", ("serial", "parallel"))
def test_a_genome_is_a_code(phase: Phase, tables: dict[Phase, Table]) -> None:
    genome = makers(tables[phase])["NSGA-II"]().genome
    for code in tables[phase].codes:
        bits = genome.bits(code)
        assert bits.shape == (genome.length,) and genome.code(bits) == code


def test_every_genome_of_the_parallel_phase_is_an_architecture_of_the_table() -> None:
    table = cheapest(PARALLEL, len(BRANCHES) ** 3)
    genome = makers(table)["NSGA-II"]().genome
    every = (np.array(list(np.binary_repr(i, genome.length))) == "1" for i in range(2**genome.length))
    assert {genome.code(bits) for bits in every} == set(table.codes)


def test_hypervolume_by_hand() -> None:
    """Widths to the reference 6, 4 and 1; the heights rise by 1, 2 and 3."""
    points = [(1.0, 4.0), (3.0, 6.0), (6.0, 9.0)]
    assert hypervolume(points, (0.0, 10.0)) == 6 * 1 + 4 * 2 + 1 * 3
    dominated = [(2.0, 7.0), (0.5, 4.0), (6.0, 9.0), (9.0, 11.0)]
    assert hypervolume([*dominated, *points], (0.0, 10.0)) == 17
    assert hypervolume([], (0.0, 10.0)) == 0


def test_a_search_that_ended_keeps_its_best() -> None:
    assert best_so_far([0.1, 0.3, 0.2], 5).tolist() == [0.1, 0.3, 0.3, 0.3, 0.3]


def test_win_rates_tell_equal_ones_apart() -> None:
    ours = np.array([[1.0, 2.0], [1.0, 3.0], [1.0, 1.0], [2.0, 3.0]])
    rival = np.array([[1.0, 1.0], [1.0, 3.0], [1.0, 2.0], [1.0, 3.0]])
    assert win_rates(ours, rival) == {"best": 0.25, "equal": 0.5, "area": 0.5, "area_equal": 0.25}


def test_noise_is_of_the_architectures_that_two_seeds_share() -> None:
    by_seed = pandas.DataFrame({0: [0.1, 0.2, 0.3, 0.4], 1: [0.1, 0.3, 0.2, None]})
    found = noise(by_seed)["1"]
    assert found["architectures"] == 3 and found["spearman"] == 0.5
    assert found["deviation"] == pytest.approx(0.1 / 2**0.5, abs=1e-5)


@pytest.mark.parametrize("phase", ("serial", "parallel"))
def test_the_command_writes_what_it_found(phase: Phase, tables: dict[Phase, Table], tmp_path, capsys) -> None:
    known = tables[phase]
    rows = pandas.DataFrame({"arch": known.codes, "seed": 0, "macs": known.macs.values()})
    rows.assign(mAP=[known.mean_ap[code] for code in known.codes]).to_csv(tmp_path / "t.csv", index=False)
    main(phase, 2, 3, tmp_path / "t.csv", tmp_path)
    assert capsys.readouterr().out.count("at least 80%") == len(RIVALS)
    written = {path.name for path in tmp_path.iterdir()} - {"t.csv"}
    assert written == {f"{RESULT[phase]}.json", f"{RESULT[phase]}.png"}
    document = json.loads((tmp_path / f"{RESULT[phase]}.json").read_text())
    assert document["phase"] == phase and list(document["strategies"]) == [OURS, PLAIN, *RIVALS]


@pytest.mark.parametrize(("phase", "table"), (("both", None), ("parallel", Path("nowhere.csv"))))
def test_the_command_refuses_what_it_does_not_have(phase: str, table: Path | None, tmp_path) -> None:
    with pytest.raises(typer.BadParameter):
        main(phase, 2, 3, table, tmp_path)
    assert not list(tmp_path.iterdir())
