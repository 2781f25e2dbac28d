"""Everything that can go wrong while profiling, as one tree.

    ProfilerError
    ├── InvalidManifest      the manifest or one of its parts cannot be used
    ├── InvalidTable         a latency table is missing, damaged or edited
    ├── TableMismatch        a sound table, made for another batch, precision or input size
    ├── BackendUnavailable   the runtime or the device is not here
    └── MeasurementFailed    a network did not load, did not run, or gave no usable number
        └── EngineBuildFailed  the runtime cannot build an engine from it

A message is one line: what, which value, what to do. Anything else that escapes is a bug of this package.
"""

from __future__ import annotations


class ProfilerError(Exception):
    """Root of the tree: an error the caller can act on."""


class InvalidManifest(ProfilerError):
    """The manifest, or a part it names, cannot be used."""


class InvalidTable(ProfilerError):
    """A latency table is missing, truncated, damaged or was edited by hand."""


class TableMismatch(ProfilerError):
    """The table was measured for another batch, precision or input size."""


class BackendUnavailable(ProfilerError):
    """The runtime is not installed or the device is not present."""


class MeasurementFailed(ProfilerError):
    """A network did not load, did not run, or gave no usable number."""


class EngineBuildFailed(MeasurementFailed):
    """The runtime cannot build an engine: an operator it lacks, a size over its limits, a damaged model."""
