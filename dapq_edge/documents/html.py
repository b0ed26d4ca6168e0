"""HTML to text, as a browser lays it out; tables become Markdown."""

import re
from typing import Any

from inscriptis.css_profiles import STRICT_CSS_PROFILE
from inscriptis.html_engine import Inscriptis
from inscriptis.html_properties import Display, WhiteSpace
from inscriptis.model.config import ParserConfig
from inscriptis.model.html_element import HtmlElement
from lxml import etree

from .charset import decode
from .extract import Extract
from .markdown import MARK, add_marked

HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")

# what the library leaves in a line
BLOCKS = ("section", "dl", "dt", "dd", "details", "summary", "form", "fieldset", "legend", "caption", "center", "hr")
PRE = HtmlElement(display=Display.block, whitespace=WhiteSpace.pre, margin_before=1, margin_after=1)
STYLE = {**STRICT_CSS_PROFILE, **{name: HtmlElement(display=Display.block) for name in BLOCKS}, "pre": PRE}

# what is no text
SILENT = ("script", "style", "noscript", "template", "svg", "head")

# a cell with more characters, or with one of these, is a part of the layout
MAX_CELL = 1000
MAX_SPAN = 100
LAYOUT = ("table", "ul", "ol", "dl", "pre", "form", "hr", *HEADINGS)

_META = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_XML = re.compile(rb"""\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)["']""", re.IGNORECASE)
_TWICE = re.compile(r"^( *)(\d+\.) \2\s*", re.MULTILINE)
_XML_TEXT = re.compile(r"\s*<\?xml[^>]*\?>")


def add_html_bytes(extract: Extract, data: bytes, charset: str = "", label: str = "") -> None:
    """Add an HTML file; `charset` is what its sender says. Raises as `decode` does."""
    found = _XML.match(data[:1024]) or _META.search(data[:4096])
    text, notes = decode(data, charset or (found[1].decode("ascii", "replace") if found else ""))
    extract.notes += notes
    add_html(extract, text, label)


def add_html(extract: Extract, html: str, label: str = "") -> None:
    """Add HTML, a part for each heading; what is before the first one is called `label`."""
    # libxml2 refuses a declaration of bytes in a text, and ends at a NUL
    html = _XML_TEXT.sub("", html, count=1).replace("\0", "").replace(MARK, "")
    parser = etree.HTMLParser(huge_tree=True, encoding="utf-8")
    tree = etree.fromstring(html.encode("utf-8", "replace"), parser) if html.strip() else None
    if tree is None:
        return
    title = " ".join("".join(tree.xpath("//head/title[1]//text()")).split())
    for note in filter(_is_reference, list(tree.iter("a", "sup"))):
        _set_reference(note)
    n_hidden = _clean(tree)
    if n_hidden:
        extract.notes.append(f"hidden parts are not read ({n_hidden:,})")
    for table in reversed(list(tree.iter("table"))):
        _set_table(table)
    for heading in tree.iter(*HEADINGS):
        heading.text = MARK + (heading.text or "").lstrip()
    text = _layout(tree)
    # a chapter has the title of its book, or of its file
    is_new = title and not label and title not in " ".join(text.replace(MARK, "").split())
    add_marked(extract, text, label or title, f"{title}\n" if is_new else "")


def _layout(tree: Any) -> str:
    text = Inscriptis(tree, ParserConfig(css=STYLE, display_images=True)).get_text()
    lines = (line.rstrip() for line in text.strip().splitlines())
    # some programs write the number of an item, too
    text = _TWICE.sub(r"\1\2 ", "\n".join(lines))
    return re.sub(r"\n{3,}", "\n\n", text)


def _clean(tree: Any) -> int:
    """Remove what a browser does not show; returns the number of parts with text that were hidden."""
    etree.strip_tags(tree, etree.Comment, etree.ProcessingInstruction)
    n_hidden = 0
    for element in list(tree.iter()):
        style = re.sub(r"\s", "", element.get("style", "")).lower()
        is_hidden = "hidden" in element.attrib or "display:none" in style
        # the arrow that leads back from a footnote
        if element.get("role") == "doc-backlink":
            element.text = None
        if element.tag not in SILENT and not is_hidden:
            continue
        n_hidden += is_hidden and element.tag not in SILENT and bool("".join(element.itertext()).strip())
        tail, parent = element.tail, element.getparent()
        if parent is not None:
            element.tag, element.text = "span", None
            for child in list(element):
                element.remove(child)
            element.tail = tail
    return n_hidden


def _is_reference(element: Any) -> bool:
    """Return whether an element is the number of a footnote."""
    if element.tag == "sup":
        return element.find(".//a") is not None
    is_note = "doc-noteref" in element.get("role", "") or element.get("epub:type") == "noteref"
    number = element.find("sup")
    return is_note or (number is not None and _line(number) == _line(element))


def _set_reference(note: Any) -> None:
    """Set the number of a footnote off from the word before it."""
    number = _line(note)
    for child in list(note):
        note.remove(child)
    note.text = number if number.startswith("[") else f"[{number}]"


def _set_table(table: Any) -> None:
    """Write a table as Markdown, or, if it is there for the layout, one cell below the other."""
    rows = [row for row in ([*row.iterchildren("td", "th")] for row in table.iter("tr")) if row]
    caption = table.find("caption")
    if _is_layout(table, rows):
        for element in table.iter("table", "tbody", "thead", "tfoot", "tr", "td", "th"):
            element.tag = "div"
        return
    lines = [_row(row) for row in rows]
    if all(cell.tag == "th" for cell in rows[0]) and len(rows) > 1:
        lines.insert(1, "| --- " * (lines[0].count(" | ") + 1) + "|")
    title = "" if caption is None else _line(caption)
    for child in list(table):
        table.remove(child)
    table.tag, table.text = "pre", "\n".join([*([title] if title else []), *lines])


def _row(cells: list[Any]) -> str:
    texts = []
    for cell in cells:
        # a line break in a cell is a space
        for element in cell.iter("br", "p", "div"):
            element.text, element.tail = f" {element.text or ''}", f" {element.tail or ''}"
        texts.append(_line(cell))
        span = cell.get("colspan", "1")
        texts += [""] * (min(int(span), MAX_SPAN) - 1 if span.isdecimal() else 0)
    return f"| {' | '.join(texts)} |"


def _line(element: Any) -> str:
    return " ".join("".join(element.itertext()).split())


def _is_layout(table: Any, rows: list[list[Any]]) -> bool:
    if max(map(len, rows), default=0) < 2:
        return True
    inner = table.iter(*LAYOUT)
    return any(element is not table for element in inner) or any(
        len("".join(cell.itertext())) > MAX_CELL for row in rows for cell in row
    )
