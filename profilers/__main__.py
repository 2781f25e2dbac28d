"""`python -m profilers`."""

from __future__ import annotations

from profilers.cli import main

main()
