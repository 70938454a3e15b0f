"""inference-mcp: local inference on LocalAI for MCP hosts, behind a priority scheduler.

This package is a program first. The rooms, from the bottom up, and what each may know of
the others are told in their own docstrings; imports go down only:

    errors → requests → backend, scheduling, pictures, observe → localai, jobs → view → surface
    → server → web → cli, demo, doctor

``simulator`` stands beside them all: a LocalAI stand-in that the serving path never needs; so
does ``hosts``, which knows how each host is told to start this program.

Another program may import ``__version__`` and what ``simulator`` itself names, a LocalAI to test
against. Those keep their meaning from one version to the next; everything else may change.
"""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__ = version("inference-mcp")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
