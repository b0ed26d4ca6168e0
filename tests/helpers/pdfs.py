"""Tiny PDFs."""


def pdf(*objects: bytes, root: bytes = b"1 0 R", trailer: bytes = b"") -> bytes:
    """A PDF of objects that are numbered from 1."""
    data, offsets = b"%PDF-1.7\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start, size = len(data), len(objects) + 1
    data += b"xref\n0 %d\n0000000000 65535 f \n" % size + b"".join(b"%010d 00000 n \n" % i for i in offsets)
    return data + b"trailer\n<< /Size %d /Root %s %s>>\nstartxref\n%d\n%%%%EOF" % (size, root, trailer, start)


def stream(data: bytes, filters: bytes = b"", more: bytes = b"") -> bytes:
    return b"<< /Length %d %s %s>>\nstream\n%s\nendstream" % (len(data), filters, more, data)


CATALOG = b"<< /Type /Catalog /Pages 2 0 R >>"
TREE = b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>"
PAGE = (
    b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
    b"/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>"
)


def pdf_of(*contents: bytes, prefix: bytes = b"", unicode: bytes = b"", value: bytes = b"") -> bytes:
    """A PDF with a page for each text; an empty one is a page without text, as a scanned one is.

    prefix: stands before the header. unicode: what codes of the font mean. value: of a field of a form.
    """
    first = 7
    kids = b" ".join(b"%d 0 R" % (first + 2 * i) for i in range(len(contents)))
    mapping = b"begincmap 1 begincodespacerange <00> <FF> endcodespacerange %s endcmap" % unicode
    widget = b"<< /Type /Annot /Subtype /Widget /FT /Tx /T (iban) /V (%s) /Rect [100 600 300 620] >>" % value
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R /AcroForm << /Fields [6 0 R] >> >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(contents)),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding %s >>"
        % (b"/ToUnicode 4 0 R" if unicode else b""),
        stream(mapping),
        b"null",
        widget,
    ]
    for i, text in enumerate(contents):
        page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> "
        lines = b" ".join(b"(%s) Tj T*" % line for line in text.split(b"\n"))
        objects += [
            page + b"/Contents %d 0 R /Annots [%s] >>" % (first + 2 * i + 1, b"6 0 R" if value and not i else b""),
            stream(b"BT /F1 11 Tf 14 TL 72 720 Td %s ET" % lines if text else b""),
        ]
    return prefix + pdf(*objects)
