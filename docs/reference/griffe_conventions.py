"""Griffe extension for the conventions of this project.

A class made by `jaxasr.pytrees.dataclass` gets an `__init__` with its fields as parameters.
Sections `Example:` become `Examples:`, because griffe renders the `>>>` lines of these as code.
"""

import re
from typing import Any

import griffe

# A line with only the title of the section, after its indentation.
_EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)
# The argument `default` in the source text of a call, up to the next keyword or the end.
_DEFAULT = re.compile(r"default=(.+?)(?:, \w+=|\)$)")


class Conventions(griffe.Extension):
    """Adds `__init__` to pytree dataclasses, and renames sections of docstrings."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Renames the sections `Example:` of a docstring before griffe parses it."""
        if obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub(r"\1Examples:", obj.docstring.value)

    def on_class_members(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Adds `__init__` with one parameter per field, once all members of a class are known."""
        decorators = [str(decorator.value) for decorator in cls.decorators]
        if "__init__" in cls.members or not any("pytrees.dataclass" in text for text in decorators):
            return
        either = griffe.ParameterKind.positional_or_keyword
        parameters = [griffe.Parameter("self", kind=either)]
        for name, field in cls.attributes.items():
            # Properties and class variables are attributes too, but not parameters.
            constant = "property" in field.labels or "ClassVar" in str(field.annotation)
            if field.annotation is not None and not constant:
                default = None if field.value is None else _default(str(field.value))
                parameters.append(
                    griffe.Parameter(
                        name, annotation=field.annotation, kind=either, default=default
                    )
                )
        init = griffe.Function(
            "__init__", parent=cls, parameters=griffe.Parameters(*parameters), returns="None"
        )
        cls.set_member("__init__", init)


def _default(value: str) -> str | None:
    """Returns the default of a field: its value, or the argument `default` of `pytrees.field`."""
    if "field(" not in value:
        return value
    match = _DEFAULT.search(value)
    return match.group(1) if match else None
