#!/usr/bin/env bash
# Make the documents that the tests read, by other programs, from the texts in sources/. It needs pandoc, LibreOffice,
# Chromium, WeasyPrint, qpdf, Ghostscript, groff, lynx and mime-construct; the files are kept in git.

set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rm -rf made
mkdir made
out=$PWD/made
src=$PWD/sources

office() { soffice "-env:UserInstallation=file://$work/profile" --headless --convert-to "$2" --outdir "$work/out" "$1" > /dev/null 2>&1; }
browser() { chromium --headless --no-sandbox --disable-gpu "$@" 2> /dev/null; }
css() { printf '<style>%s</style>' "$1" > "$work/css.html"; echo "$work/css.html"; }

for name in en de ru el ja; do
    pandoc -s "$src/$name.md" --metadata title=" " -V lang=$name -o "$work/$name.html"
    pandoc "$src/$name.md" -o "$work/$name.docx"
    pandoc "$src/$name.md" -o "$work/$name.odt"
done
two_columns=$(css 'body { columns: 2; column-gap: 3em; font: 11pt serif; text-align: justify; hyphens: auto }')
pandoc -s "$src/en.md" --metadata title=" " -V lang=en -H "$two_columns" -o "$work/columns.html"
narrow=$(css '@page { size: A5 } body { font: 12pt serif; width: 8cm; text-align: justify; hyphens: auto }')
pandoc -s "$src/de.md" --metadata title=" " -V lang=de -H "$narrow" -o "$work/narrow.html"

# PDF
office "$work/en.docx" pdf && cp "$work/out/en.pdf" "$out/writer-en.pdf"
office "$work/de.odt" pdf && cp "$work/out/de.pdf" "$out/writer-de.pdf"
browser --no-pdf-header-footer --print-to-pdf="$out/chromium-de.pdf" "file://$work/de.html"
browser --no-pdf-header-footer --print-to-pdf="$out/chromium-columns-en.pdf" "file://$work/columns.html"
weasyprint -q "$work/columns.html" "$out/weasyprint-columns-en.pdf"
weasyprint -q "$work/narrow.html" "$out/weasyprint-hyphens-de.pdf"
weasyprint -q "$work/ru.html" "$out/weasyprint-ru.pdf"
browser --no-pdf-header-footer --print-to-pdf="$out/chromium-ja.pdf" "file://$work/ja.html"
qpdf --object-streams=generate --linearize "$out/writer-en.pdf" "$out/qpdf-linear-en.pdf"
qpdf --encrypt "" owner 256 -- "$out/writer-de.pdf" "$out/qpdf-aes-de.pdf"
qpdf --encrypt reader owner 256 -- "$out/writer-en.pdf" "$out/qpdf-password-en.pdf"
gs -q -sDEVICE=pdfwrite -o "$out/ghostscript-de.pdf" "$out/chromium-de.pdf"
pandoc -s "$src/en.md" -t ms | groff -ms -t -K utf8 -T pdf > "$out/groff-en.pdf" 2> /dev/null
# pages that are pictures
gs -q -sDEVICE=pdfimage8 -r200 -o "$out/scanned-en.pdf" "$out/writer-en.pdf"

# HTML, XHTML, MHTML
pandoc -s "$src/en.md" --metadata title=" " -t html5 -o "$out/pandoc-en.html"
pandoc -s "$src/de.md" --metadata title=" " -t html4 -o "$work/de4.html"
sed 's/charset=utf-8/charset=windows-1252/I' "$work/de4.html" | iconv -t windows-1252 > "$out/iconv-windows-1252-de.html"
office "$work/de.docx" "html:HTML (StarWriter)" && cp "$work/out/de.html" "$out/writer-de.html"
office "$work/ru.docx" "html:XHTML Writer File" && cp "$work/out/ru.html" "$out/writer-ru.xhtml"
browser --dump-dom "file://$work/el.html" > "$out/chromium-el.html"
iconv -t UTF-16 "$work/ja.html" > "$out/iconv-utf-16-ja.html"

# Word
pandoc "$src/en.md" -o "$out/pandoc-en.docx"
pandoc "$src/ja.md" -o "$out/pandoc-ja.docx"
office "$work/de.odt" docx && cp "$work/out/de.docx" "$out/writer-de.docx"
office "$work/ru.html" "docx:MS Word 2007 XML" && cp "$work/out/ru.docx" "$out/writer-ru.docx"

# slides
pandoc "$src/en.md" -o "$out/pandoc-en.pptx"
pandoc "$src/de.md" -o "$work/de.pptx"
office "$work/de.pptx" odp && cp "$work/out/de.odp" "$work/" && office "$work/de.odp" pptx && cp "$work/out/de.pptx" "$out/impress-de.pptx"
office "$work/de.pptx" pdf && cp "$work/out/de.pdf" "$out/impress-de.pdf"

# workbooks
utf8='CSV:44,34,76,1'
soffice "-env:UserInstallation=file://$work/profile" --headless --infilter="$utf8" --convert-to xlsx --outdir "$work/out" "$src/stock.csv" > /dev/null 2>&1
cp "$work/out/stock.xlsx" "$out/calc-stock.xlsx"
office "$out/calc-stock.xlsx" ods && cp "$work/out/calc-stock.ods" "$work/calc.ods"
office "$work/calc.ods" "xlsx:Calc MS Excel 2007 XML" && cp "$work/out/calc.xlsx" "$out/calc-again-stock.xlsx"
office "$out/calc-stock.xlsx" "html:HTML (StarCalc)" && cp "$work/out/calc-stock.html" "$out/calc-stock.html"
office "$out/calc-stock.xlsx" pdf && cp "$work/out/calc-stock.pdf" "$out/calc-stock.pdf"

# EPUB
pandoc "$src/en.md" --metadata title=" " -t epub2 -o "$out/pandoc-en.epub"
pandoc "$src/ja.md" --metadata title=" " -t epub3 -o "$out/pandoc-ja.epub"
office "$work/ru.docx" epub && cp "$work/out/ru.epub" "$out/writer-ru.epub"

# Markdown
pandoc "$out/pandoc-en.docx" -t gfm --wrap=none -o "$out/pandoc-en.md"
pandoc "$out/writer-de.docx" -t markdown_mmd-raw_html -o "$out/pandoc-de.md"

# text
pandoc "$src/ru.md" -t plain | iconv -t KOI8-R > "$out/iconv-koi8-r-ru.txt"
pandoc "$src/de.md" -t plain | iconv -t windows-1252 | sed 's/$/\r/' > "$out/iconv-windows-1252-de.txt"
pandoc "$src/ja.md" -t plain | iconv -t UTF-16LE > "$out/iconv-utf-16-le-ja.bin" && { printf '\xff\xfe'; cat "$out/iconv-utf-16-le-ja.bin"; } > "$out/iconv-utf-16-ja.txt" && rm "$out/iconv-utf-16-le-ja.bin"
lynx -dump -nolist -width=60 -assume_charset=utf-8 -display_charset=utf-8 "$work/el.html" > "$out/lynx-el.txt"
office "$work/en.odt" "txt:Text (encoded):UTF8" && cp "$work/out/en.txt" "$out/writer-en.txt"

# CSV
office "$out/calc-stock.xlsx" 'csv:Text - txt - csv (StarCalc):59,34,76' && cp "$work/out/calc-stock.csv" "$out/calc-stock.csv"

# mails
pandoc "$src/de.md" -t plain | iconv -t iso-8859-15 > "$work/de.txt"
mime-construct --output --header 'From: office@example.org' --to port@example.org --subject Bericht \
    --type 'text/plain; charset=iso-8859-15' --encoding quoted-printable --file "$work/de.txt" > "$out/mime-construct-de.eml"
mime-construct --output --header 'From: office@example.org' --to port@example.org --subject Report --multipart multipart/mixed \
    --type 'text/html; charset=utf-8' --encoding base64 --file "$work/en.html" \
    --type application/pdf --attachment a.pdf --file "$out/writer-en.pdf" > "$out/mime-construct-html-en.eml"
mime-construct --output --header 'From: office@example.org' --to port@example.org --subject Report \
    --type 'text/plain; charset=utf-8' --encoding base64 --file "$src/ru.md" > "$out/mime-construct-ru.eml"

chmod 644 "$out"/*
du -sh "$out"
