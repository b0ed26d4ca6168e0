"""Fields of PDF forms, with their values, and what was written onto a page."""

import ctypes
from collections.abc import Callable, Iterator

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

TICKS = (pdfium_c.FPDF_FORMFIELD_CHECKBOX, pdfium_c.FPDF_FORMFIELD_RADIOBUTTON)


def field_lines(document: pdfium.PdfDocument, page: pdfium.PdfPage) -> Iterator[str]:
    """Yield a line for each field of a page that has a value, and each text that was added to it."""
    for index in range(pdfium_c.FPDFPage_GetAnnotCount(page)):
        annotation = pdfium_c.FPDFPage_GetAnnot(page, index)
        if not annotation:
            continue
        kind = pdfium_c.FPDFAnnot_GetSubtype(annotation)
        if kind == pdfium_c.FPDF_ANNOT_WIDGET and document.formenv:
            yield from _field(document.formenv, annotation)
        elif kind in (pdfium_c.FPDF_ANNOT_FREETEXT, pdfium_c.FPDF_ANNOT_TEXT):
            text = _string(lambda *to, one=annotation: pdfium_c.FPDFAnnot_GetStringValue(one, b"Contents", *to))
            yield from [text] if text.strip() else []
        pdfium_c.FPDFPage_CloseAnnot(annotation)


def _field(form: pdfium.PdfFormEnv, annotation: ctypes.c_void_p) -> Iterator[str]:
    name = _string(lambda *to: pdfium_c.FPDFAnnot_GetFormFieldName(form, annotation, *to))
    if pdfium_c.FPDFAnnot_GetFormFieldType(form, annotation) in TICKS:
        value = "yes" if pdfium_c.FPDFAnnot_IsChecked(form, annotation) else ""
    else:
        value = _string(lambda *to: pdfium_c.FPDFAnnot_GetFormFieldValue(form, annotation, *to))
    if value.strip():
        yield f"{name}: {value}"


def _string(get: Callable[..., int]) -> str:
    """Return a text in UTF-16 that a function of PDFium writes into a buffer."""
    n_bytes = get(None, 0)
    buffer = ctypes.create_string_buffer(n_bytes)
    get(ctypes.cast(buffer, ctypes.POINTER(ctypes.c_ushort)), n_bytes)
    return buffer.raw[: max(0, n_bytes - 2)].decode("utf-16-le", "replace")
