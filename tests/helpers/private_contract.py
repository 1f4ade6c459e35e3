"""A contract for import-linter: what begins with an underscore is used in its folder and below."""

import ast
from pathlib import Path

from importlinter import Contract, ContractCheck, output


class PrivateContract(Contract):
    """No module imports a private module, or a private name, of another folder.

    A module `_x` or a folder `_x/` belongs to the folder that it lies in. A private name belongs to
    its module's folder.
    """

    def check(self, graph, verbose):
        breaks = []
        for importer in sorted(graph.modules):
            for imported in sorted(graph.find_modules_directly_imported_by(importer)):
                if not within(importer, owner(imported)):
                    for detail in graph.get_import_details(importer=importer, imported=imported):
                        breaks.append(f"{importer}:{detail['line_number']} imports {imported}")
            breaks += private_names(importer, graph.modules)
        return ContractCheck(kept=not breaks, metadata={"breaks": breaks})

    def render_broken_contract(self, check):
        for line in check.metadata["breaks"]:
            output.print_error(line)


def owner(module):
    """The folder that a module is private to; empty where it is public."""
    parts = module.split(".")
    for number, part in enumerate(parts):
        if part.startswith("_") and not part.startswith("__"):
            return ".".join(parts[:number])
    return ""


def within(module, folder):
    return not folder or module == folder or module.startswith(f"{folder}.")


def private_names(module, modules):
    """Imports of names with an underscore from modules of other folders."""
    path = Path(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or node.module not in modules:
            continue
        home = (
            node.module
            if Path(*node.module.split(".")).is_dir()
            else node.module.rpartition(".")[0]
        )
        for alias in node.names:
            private = alias.name.startswith("_") and not alias.name.startswith("__")
            if (
                private
                and f"{node.module}.{alias.name}" not in modules
                and not within(module, home)
            ):
                yield f"{module}:{node.lineno} imports {alias.name} of {node.module}"
