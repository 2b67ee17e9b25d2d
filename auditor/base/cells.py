"""Text for cells of a table that a spreadsheet will open, which takes some texts for formulas and computes them."""

_FORMULAS = frozenset("=+-@|＝＋－＠")
_CONTROLS = frozenset("\t\r\n")


def safe_cell(text: str) -> str:
    """`text` with an apostrophe before it where a spreadsheet would take it for a formula."""
    computed = text[:1] in _CONTROLS or text.lstrip("\ufeff \u00a0").lstrip()[:1] in _FORMULAS
    return f"'{text}" if computed else text
