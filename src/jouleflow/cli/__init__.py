"""The command line: thin commands around public functions."""

from jouleflow.cli.main import main

__all__ = ["main"]
