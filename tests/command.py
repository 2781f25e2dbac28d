"""The command line in a folder, in this process: waking torch takes longer than most commands."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from spnas_hw.cli import main


def spnas_hw(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as done:
            return int(done.code or 0), out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()


def succeeded(folder: Path, *arguments: str) -> str:
    code, output, errors = spnas_hw(folder, *arguments)
    assert code == 0, errors
    return output


def refused(folder: Path, *arguments: str) -> str:
    """The one line on stderr of a command that a user can mend."""
    code, output, errors = spnas_hw(folder, *arguments)
    assert code == 1, (code, output, errors)
    lines = errors.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), errors
    return lines[0]
