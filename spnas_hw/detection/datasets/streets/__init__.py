"""Synthetic streets: rendered scenes with pedestrians and riders, in the layout of EuroCity Persons."""

from spnas_hw.detection.datasets.streets.dataset import write_streets

__all__ = ["write_streets"]
