"""Which image is drawn when, whoever trains: a function of the seed and the number of the draw alone.

Iteration i takes the draws from `i * batch` on, shared out among the processes. So a training that goes on
after a kill sees what it would have seen, and two processes see together what one sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from mmdet.registry import DATA_SAMPLERS, DATASETS
from mmengine.dist import get_dist_info
from torch.utils.data import Dataset, Sampler


@DATASETS.register_module()
class Draws(Dataset[Any]):
    """Item n is draw n of a data set, augmented with randomness of its own; every epoch in another order.

    Args:
        dataset: mmdet's configuration of the data set.
        draws: how many there are.
        seed: of the orders and the augmentation.
    """

    def __init__(self, dataset: dict[str, Any], draws: int, seed: int) -> None:
        self.dataset = DATASETS.build(dataset)
        self.draws, self.seed = draws, seed
        self.metainfo = self.dataset.metainfo
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def full_init(self) -> None:
        """mmengine's loader asks for it; the data set was read when it was built."""

    def __len__(self) -> int:
        return self.draws

    def __getitem__(self, draw: int) -> Any:
        # mmdet's transforms draw from numpy's global generator.
        np.random.seed(np.random.SeedSequence([self.seed, 1, draw]).generate_state(1)[0])
        return self.dataset[self.image_of(draw)]

    def image_of(self, draw: int) -> int:
        """The index of the image that a draw shows."""
        epoch, place = divmod(draw, len(self.dataset))
        if epoch != self._epoch:
            order = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.dataset))
            self._epoch, self._order = epoch, order
        return int(self._order[place])


@DATA_SAMPLERS.register_module()
class ShareOfDraws(Sampler[int]):
    """The draws of this process: of each batch of all processes its own part.

    Args:
        per_process: images of one process in an iteration.
    """

    def __init__(self, dataset: Draws, per_process: int, **_: Any) -> None:
        self.draws, self.per_process = len(dataset), per_process
        self.rank, self.processes = get_dist_info()
        self.done = 0

    def __iter__(self) -> Iterator[int]:
        batch = self.per_process * self.processes
        for first in range(self.done // self.per_process * batch, self.draws, batch):
            start = first + self.rank * self.per_process
            yield from range(start, start + self.per_process)

    def __len__(self) -> int:
        return self.draws // self.processes

    def skip(self, images: int) -> None:
        """Goes on after so many images of this process, as mmengine asks on resuming."""
        self.done = images
