"""MkDocs hook that adds one reference page per public namespace and an index of the decisions.

A public namespace is `jaxasr`, `interventions`, or a module that one of them exports.
"""

import ast
import functools
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGES = ("jaxasr", "interventions")


@functools.cache
def source(module: str) -> Path | None:
    """Returns the file of a module, or None if there is none."""
    path = ROOT.joinpath(*module.split("."))
    files = path / "__init__.py", path.with_suffix(".py")
    return next((file for file in files if file.is_file()), None)


@functools.cache
def parsed(file: Path) -> ast.Module:
    """Returns the syntax tree of a file."""
    return ast.parse(file.read_text(encoding="utf-8"))


@functools.cache
def exports(module: str) -> dict[str, str]:
    """Returns the public names of a module, each with the dotted path of its object.

    A package exports the names that it imports as `name as name`. Every module exports the
    functions and classes that it defines without a leading underscore.
    """
    names: dict[str, str] = {}
    file = source(module)
    assert file is not None, module
    for node in parsed(file).body:
        if isinstance(node, ast.ImportFrom):
            names |= {
                alias.name: origin(f"{node.module}.{alias.name}")
                for alias in node.names
                if alias.asname == alias.name
            }
        elif isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            names[node.name] = f"{module}.{node.name}"
    return names


def origin(path: str) -> str:
    """Returns the path at which an object is defined. Follows any number of re-exports."""
    module, _, name = path.rpartition(".")
    file = source(module)
    if file is None:
        return path
    for node in parsed(file).body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                target = f"{node.module}.{alias.name}"
                if (alias.asname or alias.name) == name and target != path:
                    return origin(target)
    return path


@functools.cache
def namespaces() -> dict[str, dict[str, str]]:
    """Returns the public names of each public namespace, except names of modules."""
    found: dict[str, dict[str, str]] = {}
    waiting = [(package, package) for package in PACKAGES]
    while waiting:
        name, module = waiting.pop(0)
        public = exports(module)
        modules = {key: path for key, path in public.items() if source(path)}
        waiting += [(f"{name}.{key}", path) for key, path in sorted(modules.items())]
        found[name] = {key: path for key, path in public.items() if key not in modules}
    return found


@functools.cache
def homes() -> dict[str, str]:
    """Returns, for each object, the namespace whose page describes it.

    If several namespaces export the object, this is the one with the most parts in its name.
    """
    home: dict[str, str] = {}
    for namespace, names in namespaces().items():
        for path in names.values():
            home[path] = max(home.get(path, namespace), namespace, key=lambda name: name.count("."))
    return home


def page(namespace: str) -> str:
    """Returns the Markdown of one namespace: a table of all its names, and their entries.

    A name whose entry is on the page of another namespace has only a row of the table.
    """
    module, names, home = resolve(namespace), namespaces()[namespace], homes()
    summary = ast.get_docstring(parsed(source(module))) or ""  # type: ignore[union-attr]
    rows = [f"| [`{name}`][{path}] | {first_line(path)} |" for name, path in sorted(names.items())]
    own = [path for _, path in sorted(names.items()) if home[path] == namespace]
    table = ["| name | |", "|---|---|", *rows, ""] if rows else []
    return "\n".join(
        [f"# {namespace}", "", summary, "", *table, *(f"::: {path}\n" for path in own)]
    )


def resolve(namespace: str) -> str:
    """Returns the module of a namespace, such as `interventions.effects.paths`."""
    parent, _, name = namespace.rpartition(".")
    return exports(resolve(parent))[name] if parent else namespace


def first_line(path: str) -> str:
    """Returns the first paragraph of a docstring, for a cell of a table."""
    module, _, name = path.rpartition(".")
    file = source(module)
    assert file is not None, path
    for node in parsed(file).body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name != name:
            continue
        if text := ast.get_docstring(node):  # overloads have none
            return " ".join(text.split("\n\n")[0].split("\n")).replace("|", "\\|")
    return ""


def index() -> str:
    """Returns the Markdown of the front page of the reference."""
    rows = [
        f"| [{name}]({name}.md) | {', '.join(f'`{key}`' for key in sorted(names))} |"
        for name, names in namespaces().items()
        if names
    ]
    head = "Every public name, with the namespace that it is imported from."
    return "\n".join(["# Reference", "", head, "", "| namespace | names |", "|---|---|", *rows, ""])


def decisions() -> dict[str, str]:
    """Returns the title of each decision record by file name, in order."""
    files = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
    return {file.name: file.read_text(encoding="utf-8").split("\n")[0][2:] for file in files}


def decisions_index() -> str:
    """Returns the Markdown of the front page of the decisions."""
    head = "Each page records one decision: its context, its consequences, and what was rejected."
    rows = [f"* [{title}]({name})" for name, title in decisions().items()]
    return "\n".join(["# Decisions", "", head, "", *rows, ""])


def pages() -> dict[str, str]:
    """Returns all generated pages: file name below docs/, and Markdown."""
    named = {f"reference/{name}.md": page(name) for name, names in namespaces().items() if names}
    front = {"reference/index.md": index(), "decisions/index.md": decisions_index()}
    return front | named


def on_config(config: Any) -> Any:
    """Lists the generated pages under Reference, and the records under Decisions."""
    entries = {
        "Reference": [name for name in pages() if name.startswith("reference/")],
        "Decisions": ["decisions/index.md", *(f"decisions/{name}" for name in decisions())],
    }
    for entry in config.nav:
        entry |= {key: entries[key] for key in entry.keys() & entries.keys()}
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages to those that MkDocs found."""
    from mkdocs.structure.files import File

    for path, content in pages().items():
        files.append(File.generated(config, path, content=content))
    return files
