"""MkDocs hook that adds one reference page per public namespace, read from the sources.

A public namespace is `jaxasr`, `interventions`, or a module that one of them exports.
"""

import ast
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGES = ("jaxasr", "interventions")


def source(module: str) -> Path | None:
    """The file of a module, or None if there is none."""
    path = ROOT.joinpath(*module.split("."))
    files = path / "__init__.py", path.with_suffix(".py")
    return next((file for file in files if file.is_file()), None)


def exports(module: str) -> dict[str, str]:
    """Public names of a module, each with the dotted path of what it refers to.

    A package exports what it imports as `name as name`. Every module exports the functions and
    classes that it defines without a leading underscore.
    """
    names: dict[str, str] = {}
    file = source(module)
    assert file is not None, module
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            names |= {
                alias.name: f"{node.module}.{alias.name}"
                for alias in node.names
                if alias.asname == alias.name
            }
        elif isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            names[node.name] = f"{module}.{node.name}"
    return names


def namespaces() -> dict[str, dict[str, str]]:
    """Public names of each public namespace, without the modules among them."""
    found: dict[str, dict[str, str]] = {}
    waiting = [(package, package) for package in PACKAGES]
    while waiting:
        name, module = waiting.pop(0)
        public = exports(module)
        modules = {key: path for key, path in public.items() if source(path)}
        waiting += [(f"{name}.{key}", path) for key, path in sorted(modules.items())]
        found[name] = {key: path for key, path in public.items() if key not in modules}
    return found


def homes() -> dict[str, str]:
    """The namespace whose page describes each object: the longest name that exports it."""
    home: dict[str, str] = {}
    for namespace, names in namespaces().items():
        for path in names.values():
            home[path] = max(home.get(path, ""), namespace, key=lambda name: name.count("."))
    return home


def page(namespace: str) -> str:
    """The Markdown of one namespace: a table of all its names, then an entry for each."""
    module, names, home = resolve(namespace), namespaces()[namespace], homes()
    summary = ast.get_docstring(ast.parse(source(module).read_text(encoding="utf-8"))) or ""  # type: ignore[union-attr]
    rows = [f"| [`{name}`][{path}] | {first_line(path)} |" for name, path in sorted(names.items())]
    own = [path for _, path in sorted(names.items()) if home[path] == namespace]
    table = ["| name | |", "|---|---|", *rows, ""] if rows else []
    return "\n".join(
        [f"# {namespace}", "", summary, "", *table, *(f"::: {path}\n" for path in own)]
    )


def resolve(namespace: str) -> str:
    """The module behind a namespace, such as `interventions.effects.paths`."""
    parent, _, name = namespace.rpartition(".")
    return exports(resolve(parent))[name] if parent else namespace


def first_line(path: str) -> str:
    """The first sentence of a docstring, for a cell of a table."""
    module, _, name = path.rpartition(".")
    file = source(module)
    assert file is not None, path
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if getattr(node, "name", None) == name:
            lines = (ast.get_docstring(node) or "").split("\n\n")[0].split("\n")  # type: ignore[arg-type]
            return " ".join(lines).replace("|", "\\|")
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if alias.name == name and alias.asname == name:
                    return first_line(f"{node.module}.{name}")
    return ""


def index() -> str:
    """The Markdown of the front page of the reference."""
    rows = [
        f"| [{name}]({name}.md) | {', '.join(f'`{key}`' for key in sorted(names))} |"
        for name, names in namespaces().items()
        if names
    ]
    head = "Every public name, with the namespace that it is imported from."
    return "\n".join(["# Reference", "", head, "", "| namespace | names |", "|---|---|", *rows, ""])


def pages() -> dict[str, str]:
    """All generated pages: file name below docs/, and Markdown."""
    named = {f"reference/{name}.md": page(name) for name, names in namespaces().items() if names}
    return {"reference/index.md": index()} | named


def on_config(config: Any) -> Any:
    """Lists the generated pages under Reference."""
    for entry in config.nav:
        if "Reference" in entry:
            entry["Reference"] = ["reference/index.md", *list(pages())[1:]]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages to those that MkDocs found."""
    from mkdocs.structure.files import File

    for path, content in pages().items():
        files.append(File.generated(config, path, content=content))
    return files
