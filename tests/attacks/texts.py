"""Texts that act if a program displays them unescaped, for example on a terminal or as HTML."""

ESCAPES = (
    "\x1b[2J\x1b]0;title\x07\x9b31m"  # clears the screen, renames the window, colours the text
)
MARKUP = "[/red][link=https://example.org]x[/] :boom:"
REVERSED = "\u202egpj.exe\u2066\u200f"
PAGE = "</title></script><script>alert(1)</script><img src=x onerror=alert(1)>'\"&{{7*7}}{% raw %}"
FORMULA = "$_$ $\\frac{$"
NAME = "\udc80\udcff"  # bytes of a file name that are not UTF-8
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


def acts(shown: str) -> list[str]:
    """Returns the control characters in an output, except line ends and tabs."""
    return [c for c in shown if not c.isprintable() and c not in "\n\t"]
