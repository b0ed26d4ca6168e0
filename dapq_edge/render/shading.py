"""A text with its kept tokens shaded: in the terminal, as HTML, and as a picture of layers and positions."""

import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.text import Text

from .pictures import require_matplotlib, save

# a piece of text, and the share of heads that keep it
Piece = tuple[str, float]

# the color of a token that all heads keep
COLOR = 31, 111, 139

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.6 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem }}
body {{ color: #1d2329; background: #fff }}
pre {{ font: inherit; white-space: pre-wrap; overflow-wrap: anywhere }}
p {{ color: #5b6570 }}
</style>
<h1>{title}</h1>
<p>{summary}</p>
<pre>{body}</pre>
</html>
"""


def runs(pieces: Sequence[Piece]) -> list[Piece]:
    """Pieces of nearly the same share joined, so that there are fewer of them."""
    joined: list[Piece] = []
    for text, share in pieces:
        share = round(share * 16) / 16
        if joined and joined[-1][1] == share:
            joined[-1] = joined[-1][0] + text, share
        else:
            joined.append((text, share))
    return joined


def to_terminal(pieces: Sequence[Piece]) -> Text:
    """Text for rich, on a background that says how many heads keep it."""
    text = Text()
    for piece, share in runs(pieces):
        if share:
            red, green, blue = _mix(share)
            text.append(piece, f"{'white' if share > 0.4 else 'black'} on rgb({red},{green},{blue})")
        else:
            text.append(piece, "dim")
    return text


def to_html(pieces: Sequence[Piece], title: str, summary: str) -> str:
    """A page that needs nothing else."""
    body = []
    for piece, share in runs(pieces):
        text, (red, green, blue) = html.escape(piece), _mix(share)
        color = ";color:#fff" if share > 0.4 else ""
        style = f"background:#{red:02x}{green:02x}{blue:02x}{color}"
        body.append(f'<span style="{style}" title="{share:.0%} of the heads">{text}</span>' if share else text)
    return PAGE.format(title=html.escape(title), summary=html.escape(summary), body="".join(body))


def to_picture(share: npt.NDArray[np.float64], layers: Sequence[int], title: str, path: Path) -> None:
    """PNG of layers x positions: how many of the heads of each layer keep each token.

    share: [layers, tokens], 0 to 1. Raises `DapqError` if matplotlib is missing or the file cannot be written.
    """
    require_matplotlib()
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(10, 1.5 + 0.12 * len(layers)))
    image = axis.imshow(share, aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axis.set(xlabel="position in the prompt", ylabel="layer", title=title)
    axis.set_yticks(range(0, len(layers), 4), [str(layer) for layer in layers[::4]])
    figure.colorbar(image, label="share of the heads that keep it")
    figure.tight_layout()
    save(figure, path)


def _mix(share: float) -> tuple[int, int, int]:
    """The color on white."""
    strength = 0.15 + 0.85 * share
    red, green, blue = (round(255 + (part - 255) * strength) for part in COLOR)
    return red, green, blue
