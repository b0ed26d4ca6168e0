"""Parts that all pictures share: matplotlib, and files that cannot be written."""

from pathlib import Path
from typing import Any

from ..errors import DapqError


def require_matplotlib() -> None:
    """Raise `DapqError` before work is done whose picture could not be drawn."""
    try:
        import matplotlib
    except ImportError as error:
        raise DapqError("pictures need matplotlib: run EXTRAS=plot ./scripts/setup.sh") from error
    matplotlib.use("Agg")


def save(figure: Any, path: Path) -> None:
    """Write a figure. Raises `DapqError` if the file cannot be written."""
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise DapqError(f"cannot write {path}: {error}") from error
