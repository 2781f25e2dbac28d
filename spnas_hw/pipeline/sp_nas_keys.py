"""The keys of a `sp_nas.yml`, in the layout of the reference and under corrected names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spnas_hw.search.journal import Phase
from spnas_hw.space.codec import decode

SPELLINGS = {
    "expend_ratio": "expand_prob",
    "expand_ratio": "expand_prob",
    "addstage_ratio": "add_stage_prob",
    "add_stage_ratio": "add_stage_prob",
    "addstage_prob": "add_stage_prob",
    "regnition": "reignition",
}
"""Other spelling -> ours. A ratio is the probability that the reference's documentation says it is."""


@dataclass(frozen=True)
class Worker:
    """Of the reference's scheduler; -1 devices are all that there are."""

    timeout: float | None = None
    gpus_per_job: int | None = None
    devices_per_job: int | None = None


@dataclass(frozen=True)
class General:
    """Settings of the reference's framework."""

    worker: Worker | None = None
    parallel_search: bool = False
    parallel_fully_train: bool = False


@dataclass(frozen=True)
class PipeStep:
    type: Literal["SpNasPipeStep", "FullyTrainPipeStep"]


@dataclass(frozen=True)
class Mutation:
    """`serial_settings`: operators per candidate, their probabilities, the most stages of an arch code."""

    num_mutate: int
    add_stage_prob: float
    expand_prob: float
    max_stages: int

    def __post_init__(self) -> None:
        if self.num_mutate < 1 or self.max_stages < 1:
            raise ValueError("num_mutate and max_stages must be at least 1")
        probabilities = (self.expand_prob, self.add_stage_prob)
        if not (min(probabilities) >= 0 and sum(probabilities) <= 1):
            raise ValueError(
                f"the probabilities to expand and to add a stage are {self.expand_prob} and "
                f"{self.add_stage_prob}; they must be within 0 and 1 in total"
            )


@dataclass(frozen=True)
class SearchAlgorithm:
    """One phase. `last_search_result` is a list whose best network the phase starts from."""

    type: Literal["SpNas"]
    codec: Literal["SpNasCodec"]
    total_list: str
    sample_level: Phase
    max_sample: int
    max_optimal: int
    serial_settings: Mutation | None = None
    reignition: bool = False
    last_search_result: str | None = None

    def __post_init__(self) -> None:
        if self.max_sample < 1 or self.max_optimal < 1:
            raise ValueError("max_sample and max_optimal must be at least 1")
        if self.sample_level == "serial" and self.serial_settings is None:
            raise ValueError("a serial phase needs serial_settings")
        if self.sample_level == "parallel":
            if self.serial_settings is not None:
                raise ValueError("serial_settings belong to a serial phase: leave them empty")
            if self.max_optimal != 1:
                raise ValueError("a parallel phase starts from one network: max_optimal must be 1")
            if self.reignition:
                raise ValueError("a parallel phase does not reignite: set regnition in the serial phase")


@dataclass(frozen=True)
class Space:
    """`search_space`: the search whose settings the phase takes, and the epochs of a candidate."""

    type: Literal["SearchSpace"]
    config_template_file: str
    epoch: int

    def __post_init__(self) -> None:
        if self.epoch < 1:
            raise ValueError(f"epoch is {self.epoch}; it must be at least 1")


@dataclass(frozen=True)
class Devices:
    """`trainer` of a phase."""

    type: Literal["SpNasTrainer"]
    gpus: int = 1
    debug: bool = False


@dataclass(frozen=True)
class FullTraining:
    """`trainer` of a full training: the best network of `model_desc_file`, or the code `model_desc`."""

    type: Literal["SpNasTrainer"]
    gpus: int
    config_template: str
    epoch: int
    model_desc_file: str | None = None
    model_desc: str | None = None
    reignition: bool = False
    debug: bool = False

    def __post_init__(self) -> None:
        if (self.model_desc_file is None) == (self.model_desc is None):
            raise ValueError("a full training needs model_desc_file or model_desc, one of them")
        if self.epoch < 1 or self.gpus < 1:
            raise ValueError("epoch and gpus must be at least 1")
        if self.model_desc is not None:
            decode(self.model_desc)


@dataclass(frozen=True)
class PhaseStep:
    """A phase of the search under its name."""

    name: str
    search_algorithm: SearchAlgorithm
    search_space: Space
    trainer: Devices | None = None


@dataclass(frozen=True)
class TrainStep:
    """A full training under its name."""

    name: str
    trainer: FullTraining


Step = PhaseStep | TrainStep


KINDS: dict[str, type[PhaseStep] | type[TrainStep]] = {
    "SpNasPipeStep": PhaseStep,
    "FullyTrainPipeStep": TrainStep,
}
TOP_LEVEL = ("general", "pipeline", "budget", "table", "seed")
