"""PDFs that should not be."""

from __future__ import annotations

import zlib

Files = dict[str, bytes]
CATALOG, PAGES = b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>"
FONT = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
RESOURCES = b"/Resources << /Font << /F1 5 0 R >> >>"
HELLO = b"BT /F1 12 Tf 72 720 Td (hello) Tj ET"


def pdf(*objects: bytes, trailer: bytes = b"", start: int | None = None) -> bytes:
    """Objects are numbered from 1, and the first is the root."""
    out, offsets = b"%PDF-1.7\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    head = b"xref\n0 %d\n0000000000 65535 f \n%s" % (len(objects) + 1, table)
    end = b"trailer\n<< /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n"
    return out + head + end % (len(objects) + 1, trailer, len(out) if start is None else start)


def stream(data: bytes, extra: bytes = b"") -> bytes:
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(data), extra, data)


def page(contents: bytes = HELLO, extra: bytes = b"", *more: bytes, catalog: bytes = CATALOG) -> bytes:
    """One page; object 4 is its contents, 5 its font, those after are `more`."""
    body = b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R %s /MediaBox [0 0 612 792] %s >>" % (RESOURCES, extra)
    return pdf(catalog, PAGES, body, contents if contents.startswith(b"<<") else stream(contents), FONT, *more)


def squeezed(size: int, times: int) -> bytes:
    """Zeros behind so many layers of compression."""
    data = bytes(size)
    for _ in range(times):
        data = zlib.compress(data, 9)
    return stream(data, b"/Filter [%s]" % (b"/FlateDecode " * times))


def structures() -> Files:
    chain = [b"<< /Type /Pages /Kids [%d 0 R] /Count 1 >>" % (number + 1) for number in range(3, 20_003)]
    nested = b"[" * 100_000 + b"]" * 100_000
    return {
        "pages-in-a-circle": pdf(CATALOG, b"<< /Type /Pages /Kids [2 0 R] /Count 1 >>"),
        "pages-in-a-large-circle": pdf(
            CATALOG,
            b"<< /Type /Pages /Kids [3 0 R] /Count 9 >>",
            b"<< /Type /Pages /Kids [2 0 R] /Parent 2 0 R /Count 9 >>",
        ),
        "pages-nested-20000-deep": pdf(CATALOG, b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>", *chain),
        "claims-2-billion-pages": pdf(
            CATALOG, b"<< /Type /Pages /Kids [3 0 R] /Count 2147483647 >>", b"<< /Type /Page >>"
        ),
        "claims-minus-one-page": pdf(CATALOG, b"<< /Type /Pages /Kids [3 0 R] /Count -1 >>", b"<< /Type /Page >>"),
        "20000-pages": pdf(
            CATALOG,
            b"<< /Type /Pages /Kids [%s] /Count 20000 >>" % (b"3 0 R " * 20_000),
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] >>",
        ),
        "arrays-nested-in-the-catalog": pdf(
            b"<< /Type /Catalog /Pages 2 0 R /X %s >>" % nested, PAGES, b"<< /Type /Page >>"
        ),
        "root-is-itself": pdf(b"1 0 R"),
        "table-points-to-itself": pdf(CATALOG, PAGES, b"<< /Type /Page /Parent 2 0 R >>", trailer=b"/Prev 9"),
        "table-is-far-away": pdf(CATALOG, PAGES, b"<< /Type /Page /Parent 2 0 R >>", start=2**40),
        "object-stream-in-itself": pdf(
            CATALOG, PAGES, stream(b"3 0 << >>", b"/Type /ObjStm /N 99999999 /First 4 /Extends 3 0 R")
        ),
        "length-is-itself": pdf(
            CATALOG, PAGES, b"<< /Type /Page /Contents 4 0 R >>", b"<< /Length 4 0 R >>\nstream\nx\nendstream"
        ),
        "cut-in-the-middle": page()[:300],
        "head-without-body": b"%PDF-1.7\n",
        "junk-with-a-head": b"%PDF-1.7\n" + bytes(range(256)) * 4000,
        "locked": pdf(
            *(CATALOG, PAGES, b"<< /Type /Page /Parent 2 0 R >>"),
            b"<< /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >>" % (b"41" * 32, b"42" * 32),
            trailer=b"/Encrypt 4 0 R /ID [<00><00>]",
        ),
    }


def contents(url: str) -> Files:
    target = url.encode()
    form = b"/XObject << /A 6 0 R >>"
    cmap = (
        b"/CIDInit /ProcSet findresource begin begincmap\n"
        + b"1 beginbfrange\n<0000> <ffff> <0000>\nendbfrange\n" * 5000
    )
    unicode_font = b"<< /Type /Font /Subtype /Type0 /BaseFont /A /Encoding /Identity-H "
    unicode_font += b"/DescendantFonts [5 0 R] /ToUnicode 6 0 R >>"
    actions = (
        b"/OpenAction << /S /JavaScript /JS (app.launchURL\\('%s'\\)) >> /AA << /WC << /S /URI /URI (%s) >> >>"
        % (target, target)
    )
    return {
        "1-gb-of-zeros": page(squeezed(2**28, 2)),
        "filters-40-deep": page(squeezed(2**16, 40)),
        "form-paints-itself": page(
            b"/A Do",
            b"/Resources << %s >>" % form,
            stream(b"/A Do /A Do", b"/Type /XObject /Subtype /Form /Resources << %s >>" % form),
        ),
        "states-pushed-a-million-times": page(b"q " * 1_000_000 + HELLO),
        "arrays-nested-in-the-text": page(b"BT /F1 9 Tf " + b"[" * 200_000 + b"(x)" + b"]" * 200_000 + b" TJ ET"),
        "numbers-without-end": page(b"BT /F1 " + b"9" * 100_000 + b" Tf " + b"-" * 9999 + b" 1e999 Td (x) Tj ET"),
        "page-of-astronomic-size": page(HELLO, b"/MediaBox [-1e38 -1e38 1e38 1e38] /UserUnit 1e9 /Rotate 7"),
        "image-of-astronomic-size": page(
            b"/A Do",
            b"/Resources << %s >>" % form,
            stream(
                b"x",
                b"/Subtype /Image /Width 2147483647 /Height 2147483647 /BitsPerComponent 16 /ColorSpace /DeviceCMYK",
            ),
        ),
        "broken-jpeg-2000": page(
            b"/A Do",
            b"/Resources << %s >>" % form,
            stream(b"\xff\x4f\xff\x51" + b"\xff" * 999, b"/Subtype /Image /Width 9 /Height 9 /Filter /JPXDecode"),
        ),
        "letters-of-a-cyclic-font": pdf(
            CATALOG,
            PAGES,
            b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> /MediaBox [0 0 9 9] >>",
            stream(HELLO),
            unicode_font,
            stream(cmap),
        ),
        "letters-that-draw-themselves": page(
            HELLO,
            b"/Resources << /Font << /F1 6 0 R >> >>",
            b"<< /Type /Font /Subtype /Type3 /FontBBox [0 0 9 9] /FontMatrix [1 0 0 1 0 0] /FirstChar 0 /LastChar 255 "
            b"/Encoding << /Differences [104 /h] >> /CharProcs << /h 7 0 R >> /Resources << /Font << /F1 6 0 R >> >> >>",
            stream(HELLO),
        ),
        "scripts-and-addresses": page(catalog=CATALOG[:-2] + actions + b">>"),
        "starts-programs": page(
            catalog=CATALOG[:-2] + b"/OpenAction << /S /Launch /F (/bin/sh) /Win << /F (cmd.exe) >> >> >>"
        ),
        "contents-lie-elsewhere": page(b"<< /Length 0 /F << /FS /URL /F (%s) >> >>\nstream\n\nendstream" % target),
        "sends-a-form": page(catalog=CATALOG[:-2] + b"/AcroForm << /Fields [] /XFA (<x xmlns:x='%s'/>) >> >>" % target),
        "carries-a-file": page(catalog=CATALOG[:-2] + b"/Names << /EmbeddedFiles << /Names [(a) 6 0 R] >> >> >>"),
        "a-pdf-in-a-zip-in-a-pdf": page() + b"PK\x03\x04" + page(),
    }


def all_pdfs(url: str) -> Files:
    return structures() | contents(url)
