"""Synthetic streets: rendered scenes with pedestrians and riders, in the layout of EuroCity Persons."""

from spnas_hw.detection.datasets.streets.dataset import size_of_streets, write_streets

__all__ = ["size_of_streets", "write_streets"]
