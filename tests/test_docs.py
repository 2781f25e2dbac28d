"""What the documents show is run or checked."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from spnas_hw.cli import app

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")] + sorted((ROOT / "docs").glob("*.md"))
COMMANDS = sorted(
    {
        line.strip().removeprefix("$ ")
        for path in DOCUMENTS
        for line in path.read_text().splitlines()
        if re.match(r"\s*(\$ )?spnas-hw ", line)
    }
)


def test_the_documents_show_commands() -> None:
    assert len(COMMANDS) > 4


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shown_exists_with_its_options(command: str) -> None:
    _, *words = shlex.split(command.split(" #")[0])
    parser = typer.main.get_command(app)
    while hasattr(parser, "commands"):
        name = words.pop(0) if words[0] in parser.commands else getattr(parser, "default", words[0])
        assert name in parser.commands, command
        parser = parser.commands[name]
    known = {option for parameter in parser.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known, command


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target
