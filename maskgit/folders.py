"""Makes the program's folders importable under `maskgit.`, next to other models and utils.

Inside the program `utils.errors` is a top-level name, and a user's own utils.py may come first. So
the library loads these modules again under its own name: models/open.py is `maskgit.models.open`,
and `from utils.errors import ...` in it means `maskgit.utils.errors`.
"""

import ast
import sys
from collections.abc import Sequence
from importlib.machinery import FileFinder, ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

FOLDERS = ("models", "utils")
# The program's folder, or this one if the installed package contains the other folders.
ROOT = next(above for above in Path(__file__).resolve().parents if (above / "models").is_dir())


class _Loader(SourceFileLoader):
    """Loads a module whose imports from FOLDERS are those of the library."""

    def get_code(self, fullname: str) -> CodeType:
        """Compile the module; stored bytecode belongs to the program's own modules."""
        path = self.get_filename(fullname)
        tree = ast.parse(self.get_data(path), path)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FOLDERS:
                node.module = f"maskgit.{node.module}"
        code: Any = compile(tree, path, "exec", dont_inherit=True)
        return code


class _Finder:
    """Finds `maskgit.models`, `maskgit.utils` and the modules in them."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module; Python's import calls this."""
        package, *inside = name.split(".")
        if package != "maskgit" or not inside or inside[0] not in FOLDERS:
            return None
        folder = ROOT.joinpath(*inside[:-1])
        return FileFinder(str(folder), (_Loader, [".py"])).find_spec(name)


sys.meta_path.insert(0, _Finder)
