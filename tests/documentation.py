"""The reference of commands and options, made from the command line: `python -m tests.documentation` writes it anew."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from denseport.cli import cli
from denseport.options import Migrating, Predicting, Verifying, options_of

REFERENCE = Path(__file__).resolve().parents[1] / ".github" / "COMMANDS.md"
IN_PYTHON = {name for table in (Migrating, Verifying, Predicting) for name in options_of(table)}
INTRODUCTION = """\
# Commands and options

What `--help` says, on one page. The name under "in Python" is that of the keyword in `denseport.convert`, `migrate`,
`verify`, `inspect` and `predict`. Options of `convert` can stand in a manifest under that name too; several names are a
list in TOML, and have spaces between them in CSV.
"""


def commands(group: click.Group = cli, parent: click.Context | None = None) -> Iterator[click.Context]:
    """A context for each command, and for those below it."""
    context = click.Context(group, parent, info_name="denseport" if parent is None else group.name)
    for name, command in sorted(group.commands.items()):
        yield click.Context(command, context, info_name=name)
        if isinstance(command, click.Group):
            yield from commands(command, context)


def reference() -> str:
    """The whole page, in Markdown."""
    return "\n".join([INTRODUCTION, *map(_section, commands())])


def _section(context: click.Context) -> str:
    usage = " ".join([context.command_path, *context.command.collect_usage_pieces(context)])
    lines = [
        f"## {context.command_path}",
        "",
        "```",
        usage,
        "```",
        "",
        inspect.cleandoc(context.command.help or ""),
        "",
    ]
    if options := [option for option in context.command.params if isinstance(option, click.Option)]:
        lines += ["| option | in Python | |", "|---|---|---|", *(_row(option, context) for option in options), ""]
    return "\n".join(lines)


def _row(option: click.Option, context: click.Context) -> str:
    kind = option.type
    values = option.metavar or ("|".join(map(str, kind.choices)) if isinstance(kind, click.Choice) else "")
    spelled = ", ".join(option.opts) + "".join(f" / {name}" for name in option.secondary_opts)
    in_python = option.name in IN_PYTHON and context.parent is not None and context.parent.command is cli
    meaning = [option.help or ""]
    if isinstance(kind, click.IntRange | click.FloatRange):
        meaning.append(f"{kind.min} or more." if kind.max is None else f"{kind.min} to {kind.max:,}.")
    if option.multiple:
        meaning.append("Can be given several times.")
    if option.show_default and (not option.is_flag or option.default):
        default = option.opts[0] if option.is_flag else option.default
        meaning.append(f"Default: {option.show_default if isinstance(option.show_default, str) else default}.")
    cells = f"`{spelled} {values}".rstrip() + "`", f"`{option.name}`" * in_python, " ".join(meaning)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    REFERENCE.parent.mkdir(exist_ok=True)
    REFERENCE.write_text(reference(), encoding="utf-8")
