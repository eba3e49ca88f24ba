"""Fills the placeholders of docs/results/findings.template.md with the numbers of results."""

import re
from typing import Any

from experiments.studies import finding_rows, registry
from experiments.studies.result_tables import MODELS, Published, run_line

_PLACEHOLDER = re.compile(r"\{([^{}\n]+)\}")


def fill(template: str, published: Published) -> str:
    """Replaces each placeholder.

    | placeholder | text |
    |---|---|
    | `{E6.tiny.en.one_head}` | verdict, estimate, interval and number of units of a claim |
    | `{E6.tiny.en.numbers.mined}` | a number of `result.json`; further keys follow after dots |
    | `{E6.tiny.en}` | command, seed, commit and time of the run |

    The text is "not yet run" if the run is missing.

    Args:
        template: Markdown.
        published: the results.

    Returns:
        Markdown without placeholders.

    Raises:
        ValueError: a study, model, claim or number is unknown.

    Example:
        >>> fill("Heads: {E6.tiny.en.one_head}.", Published({}, {}))
        'Heads: not yet run.'
    """
    return _PLACEHOLDER.sub(lambda match: _text(match[1], published), template)


def _text(placeholder: str, published: Published) -> str:
    name, model, keys = _split(placeholder)
    claims = registry.study(name).claims
    if keys and keys[0] != "numbers" and ".".join(keys) not in claims:
        raise ValueError(
            f"findings.template.md: expected {{{placeholder}}} to name a claim out of "
            f"{', '.join(claims)}, or numbers; got {'.'.join(keys)!r}."
        )
    result = published.results.get(name, {}).get(model)
    if result is None:
        return "not yet run" if keys else f"{model}: not yet run"
    if not keys:
        return run_line(model, result)
    if keys[0] == "numbers":
        return _number(placeholder, result["numbers"], keys[1:])
    row = result["findings"][".".join(keys)]
    texts = [finding_rows.format_evidence(row, adjusted=False), *finding_rows.notes(row)]
    text = f"**{finding_rows.format_verdict(row)}** ({'; '.join(texts)})"
    return text.replace("|", "\\|")  # most placeholders are in cells of tables


def _split(placeholder: str) -> tuple[str, str, list[str]]:
    """Splits "E6.tiny.en.one_head" into study, model and keys."""
    name, _, rest = placeholder.partition(".")
    for model in MODELS:
        if name in registry.study_modules() and f"{rest}.".startswith(f"{model}."):
            keys = rest[len(model) + 1 :]
            return name, model, keys.split(".") if keys else []
    raise ValueError(
        f"findings.template.md: expected placeholders such as {{E6.tiny.en.one_head}}, with a "
        f"study out of {', '.join(registry.study_modules())} and a model out of "
        f"{', '.join(MODELS)}; got {{{placeholder}}}."
    )


def _number(placeholder: str, numbers: Any, keys: list[str]) -> str:
    for key in keys:
        if not isinstance(numbers, dict) or key not in numbers:
            found = ", ".join(numbers) if isinstance(numbers, dict) else repr(numbers)
            raise ValueError(
                f"findings.template.md: {{{placeholder}}} has no number {key!r}, only {found}."
            )
        numbers = numbers[key]
    return f"{numbers:.3g}" if isinstance(numbers, float) else str(numbers)
