"""The documentation says what the command line says: each command, each option, its default and its choices."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import click
import pytest
from documentation import REFERENCE, commands, reference

from denseport.cli import cli

ROOT = Path(__file__).resolve().parents[1]


def test_the_reference_is_what_the_command_line_says() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == reference(), "run python -m tests.documentation"


def test_the_reference_has_every_option_of_help() -> None:
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", reference(), re.MULTILINE | re.DOTALL))
    for context in commands():
        shown = set(re.findall(r"--[a-z0-9-]+", context.get_help().partition("Options:")[2].partition("Commands:")[0]))
        found = set(
            re.findall(r"--[a-z0-9-]+", "\n".join(re.findall(r"^\| `.*", sections[context.command_path], re.M)))
        )
        assert shown - {"--help"} == found, context.command_path


def test_summaries_are_whole_sentences_at_80_columns() -> None:
    groups = [command for command in [cli, *cli.commands.values()] if isinstance(command, click.Group)]
    assert len(groups) == 2
    for group in groups:
        text = group.get_help(click.Context(group, info_name="denseport", terminal_width=80))
        lines = text.partition("Commands:\n")[2].splitlines()
        assert len(lines) == len(group.commands), "a summary takes more than one line"
        for line in lines:
            assert len(line) <= 80
            assert re.fullmatch(r"  [a-z]+ +[A-Z][^.]*[a-z]\.", line), line


PAGES = [page for page in ROOT.rglob("*.md") if not any(part in (".venv", "build") for part in page.parts)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_is_two_minutes_long() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 170


def rooms_of_the_table() -> dict[str, int]:
    """The row of each room and module in CONTRIBUTING's table, from the top."""
    text = (ROOT / ".github" / "CONTRIBUTING.md").read_text().partition("## The rooms")[2].partition("## How to")[0]
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {name.strip("`/ "): n for n, row in enumerate(rows) for name in row.split(",")}


def imported(file: Path) -> set[str]:
    """The rooms of denseport that a file imports, in a function too, but not for types alone."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "denseport":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("denseport."):
            found.add(node.module.split(".")[1])
    return found


def test_no_import_points_up() -> None:
    rows = rooms_of_the_table()
    package = ROOT / "denseport"
    upward = []
    for file in package.rglob("*.py"):
        room = file.relative_to(package).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        assert room in rows, f"CONTRIBUTING's table has no {room}"
        upward += [
            f"{file.relative_to(ROOT)} imports {each}" for each in imported(file) if rows.get(each, 99) < rows[room]
        ]
    assert upward == []
