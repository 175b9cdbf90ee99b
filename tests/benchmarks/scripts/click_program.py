"""The least that a command line by click can be: what `denseport --help` is compared to."""

import click


@click.command()
def main() -> None:
    """Do nothing."""


main()
