from __future__ import annotations

from collections import Counter

import numpy as np
import pandas
import pytest
from compare import OURS, PLAIN, best_so_far, hypervolume, main, makers, noise, win_rates
from replay import Table, replay
from strategies import (
    Nsga2,
    ancestor_operator,
    ancestor_swap,
    ancestor_weights,
)
from tabular import cheapest_first, configuration

from spnas_hw.search.proposal import Proposal
from spnas_hw.space.codec import decode
from spnas_hw.space.morphism import unchanged

CONFIG = configuration()
RIVALS = ("random", "ancestor", "regularised evolution", "NSGA-II")


def smooth(code: str) -> float:
    """A made-up quality without noise: deep and narrow is good, with the blocks and the doubling late."""
    stages = [stage.doubles for stage in decode(code).stages]
    blocks = [double for stage in stages for double in stage]
    late = 0.003 * (len(stages[-1]) - len(stages[0])) + 0.004 * blocks.index(True)
    return round(0.1 + 0.01 * len(blocks) - 0.02 * sum(blocks) + late, 4)


@pytest.fixture(scope="module")
def table() -> Table:
    ranked = cheapest_first(CONFIG)[:320]
    return Table({code: smooth(code) for _, code in ranked}, {code: macs for macs, code in ranked})


@pytest.mark.parametrize("name", (OURS, PLAIN, *RIVALS))
def test_a_strategy_trains_feasible_architectures_once_and_the_same_again(name: str, table: Table) -> None:
    make = makers(CONFIG, table)[name]
    first, again, other = ([trial.code for trial in replay(make(), table, 15, seed)] for seed in (3, 3, 4))
    assert first == again != other
    assert first[0] == other[0] == f"{CONFIG.start}_0-0-0"
    assert len(set(first)) == len(first) == 15
    assert set(first) <= set(table.codes)


def test_nothing_outside_the_table_is_trained(table: Table) -> None:
    class Stubborn:
        def ask(self, rng: object) -> Proposal:
            return Proposal(unchanged(decode("b16_1-1-2")))

        def tell(self, trial: object) -> None:
            pass

        def needed(self) -> set[int]:
            return set()

    with pytest.raises(ValueError, match="trained already"):
        replay(Stubborn(), table, 2, 0)
    with pytest.raises(ValueError, match="not in the table"):
        replay(Stubborn(), Table({}, {}), 2, 0)


def test_a_small_table_ends_a_search_early(table: Table) -> None:
    few = Table({code: table.mean_ap[code] for code in ("b16_1-1-2_0-0-0", "b16_1-2-1_0-0-0")}, table.macs)
    for name in RIVALS:
        assert 1 <= len(replay(makers(CONFIG, few)[name](), few, 5, 0)) <= 2


def test_ours_beats_random_on_a_smooth_table(table: Table) -> None:
    found = {
        name: [
            max(t.mean_ap or 0.0 for t in replay(makers(CONFIG, table)[name](), table, 20, s))
            for s in range(8)
        ]
        for name in (OURS, "random")
    }
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


def test_a_genome_is_a_code(table: Table) -> None:
    rival = Nsga2(decode(CONFIG.start), table.codes)
    for code in table.codes:
        assert rival.code(rival.genome(code)) == code


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


def test_the_command_writes_what_it_found(table: Table, tmp_path, capsys) -> None:
    rows = pandas.DataFrame({"arch": table.codes, "seed": 0, "macs": table.macs.values()})
    rows.assign(mAP=[table.mean_ap[code] for code in table.codes]).to_csv(tmp_path / "table.csv", index=False)
    main(2, 3, tmp_path / "table.csv", tmp_path)
    assert capsys.readouterr().out.count("at least 80%") == len(RIVALS)
    assert {path.name for path in tmp_path.iterdir()} == {
        "table.csv",
        "search_quality.json",
        "search_quality.png",
    }
