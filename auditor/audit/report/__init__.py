"""The report in its three forms, all made from one case: `render_html`, `render_pdf`, `to_json`.

`render_pages` gives the pages of the PDF as pictures.

view.py turns the case into finished words and numbers; html.py and pdf.py only lay them out, from
resources/report/report.html and resources/report/report.typ.
"""

from auditor.audit.report.html import render_html
from auditor.audit.report.pdf import render_pages, render_pdf
from auditor.audit.report.view import to_json, view

__all__ = ["render_html", "render_pages", "render_pdf", "to_json", "view"]
