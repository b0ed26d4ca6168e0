"""Numbers and bullets of lists that a PDF draws elsewhere than before their items."""

import re

import pypdfium2 as pdfium

_MARKER = re.compile(r"\s*(?:\(?\d{1,3}[.)]|[a-z][.)]|[•◦▪‣∙])\s*")

# left, bottom, right, top of a piece of a line, in points, and its text
Piece = tuple[float, float, float, float, str]


def place_markers(page: pdfium.PdfTextPage, text: str) -> str:
    """Return the text of a page with each marker that stands alone before what is right of it."""
    lines = text.split("\n")
    if not any(map(_MARKER.fullmatch, lines)):
        return text
    pieces = [_piece(page, index) for index in range(page.count_rects())]
    for piece in pieces:
        marker = piece[-1]
        item = _right_of(piece, pieces) if _MARKER.fullmatch(marker) else ""
        alone = next((i for i, line in enumerate(lines) if line.strip() == marker), None)
        place = next((i for i, line in enumerate(lines) if item and line.startswith(item)), None)
        if alone is not None and place is not None:
            lines[place] = f"{marker} {lines[place]}"
            del lines[alone]
    return "\n".join(lines)


def _piece(page: pdfium.PdfTextPage, index: int) -> Piece:
    box = page.get_rect(index)
    return (*box, page.get_text_bounded(*box).strip())


def _right_of(marker: Piece, pieces: list[Piece]) -> str:
    """Return the text that follows on the same line."""
    middle = (marker[1] + marker[3]) / 2
    row = [piece for piece in pieces if piece[1] < middle < piece[3] and piece[0] > marker[0] and piece[-1]]
    return min(row)[-1] if row else ""
