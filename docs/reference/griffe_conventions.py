"""Griffe extension for the conventions of this project.

Classes made by `jaxasr.pytrees.dataclass` get their signature, and a section `Example:` is read as
`Examples:`, whose `>>>` lines are rendered as code.
"""

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)
_DEFAULT = re.compile(r"default=(.+?)(?:, \w+=|\)$)")


class Conventions(griffe.Extension):
    """Adds `__init__` with one parameter per field, and renames sections."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Renames the section of a docstring before it is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub(r"\1Examples:", obj.docstring.value)

    def on_class_members(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Reads the fields of a class once all its members are known."""
        decorators = [str(decorator.value) for decorator in cls.decorators]
        if "__init__" in cls.members or not any("pytrees.dataclass" in text for text in decorators):
            return
        either = griffe.ParameterKind.positional_or_keyword
        parameters = [griffe.Parameter("self", kind=either)]
        for name, field in cls.attributes.items():
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
    """Returns the default of a field: its value, or the `default` of `pytrees.field`."""
    if "field(" not in value:
        return value
    match = _DEFAULT.search(value)
    return match.group(1) if match else None
