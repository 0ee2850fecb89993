"""What the library logs, on standard error."""

from __future__ import annotations

import logging

import click


class _Echo(logging.Handler):
    """A line a record, as the program's other messages."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"cdimage: {record.getMessage()}", err=True)


def log_to_standard_error(*, debug: bool, quiet: bool) -> None:
    """Show what is tried again and what registries warn of; when quiet, the latter alone."""
    logger = logging.getLogger("cdimage")
    logger.handlers = [_Echo()]
    logger.propagate = False
    level = logging.WARNING if quiet else logging.INFO
    logger.setLevel(logging.DEBUG if debug else level)
