"""Texts that act if a program displays them unescaped, for example on a terminal or as HTML."""

# Clears the screen of a terminal, renames its window, and colours the text.
ESCAPES = "\x1b[2J\x1b]0;title\x07\x9b31m"
# Markup of the library rich: a colour, a link and an emoji.
MARKUP = "[/red][link=https://example.org]x[/] :boom:"
# Reverses the order in which the following characters are shown.
REVERSED = "\u202egpj.exe\u2066\u200f"
# Elements and scripts of HTML, and commands of template engines.
PAGE = "</title></script><script>alert(1)</script><img src=x onerror=alert(1)>'\"&{{7*7}}{% raw %}"
# Formulas of matplotlib, which are not complete.
FORMULA = "$_$ $\\frac{$"
NAME = "\udc80\udcff"  # bytes of a file name that are not UTF-8
# Characters that end a line or a text.
LINES = "one\r\ntwo\x00\u2028three"
HOSTILE = {
    "escapes": ESCAPES,
    "markup": MARKUP,
    "reversed": REVERSED,
    "page": PAGE,
    "formula": FORMULA,
    "name": NAME,
    "lines": LINES,
}


def control_characters(shown: str) -> list[str]:
    """Returns the control characters in an output, except line ends and tabs."""
    return [c for c in shown if not c.isprintable() and c not in "\n\t"]
