"""A presentation."""

from collections.abc import Iterator
from typing import Any, BinaryIO

from pptx import Presentation
from pptx.enum.shapes import MSO_SHAPE_TYPE

from .child import Task
from .extract import Extract


def extract(file: BinaryIO, task: Task, result: Extract) -> None:
    """Read the slides, with what the speaker notes."""
    result.between = "\n\n"
    n_drawn = 0
    for number, slide in enumerate(Presentation(file).slides, start=1):
        shapes = list(_all_shapes(slide.shapes))
        n_drawn += sum(_is_drawn(shape) for shape in shapes)
        texts = [_shape_text(shape) for shape in shapes]
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            texts.append(slide.notes_slide.notes_text_frame.text)
        result.add(f"slide {number}", "\n".join(text.strip() for text in texts if text.strip()))
    result.note_empty("slides")
    if n_drawn:
        result.notes.append(f"charts and diagrams are not read ({n_drawn})")


def _all_shapes(shapes: Any) -> Iterator[Any]:
    for shape in shapes:
        if shape.shape_type == MSO_SHAPE_TYPE.GROUP:
            yield from _all_shapes(shape.shapes)
        else:
            yield shape


def _lines(paragraphs: Any) -> Iterator[str]:
    """Yield paragraphs; the numbers of a list are not a part of its text."""
    counts: dict[int, int] = {}
    for paragraph in paragraphs:
        # a line break in a paragraph
        text = str(paragraph.text).replace("\v", "\n")
        numbered = paragraph._p.find(".//{*}buAutoNum")
        counts = {level: n for level, n in counts.items() if level <= paragraph.level - (numbered is None)}
        if numbered is not None and text.strip():
            first = int(numbered.get("startAt", "1"))
            counts[paragraph.level] = counts.get(paragraph.level, first - 1) + 1
            text = f"{counts[paragraph.level]}. {text}"
        yield text


def _is_drawn(shape: Any) -> bool:
    return shape.shape_type in (MSO_SHAPE_TYPE.CHART, MSO_SHAPE_TYPE.DIAGRAM, MSO_SHAPE_TYPE.IGX_GRAPHIC)


def _shape_text(shape: Any) -> str:
    if shape.has_text_frame:
        return "\n".join(_lines(shape.text_frame.paragraphs))
    if getattr(shape, "has_table", False):
        rows = ([" ".join(cell.text.split()) for cell in row.cells] for row in shape.table.rows)
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return ""
