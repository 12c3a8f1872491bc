"""To be imported before River: what it loads and nobody needs here is loaded at its first use.

For the detector and the models that Sluice uses, River loads data sets, readers of tables, and most
of SciPy: 0.5 s of every start, 45 MB, and 600 mappings more in all, each of which makes a copy of
the process (see `forked`) take longer.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

# As River names them in its imports: whoever reads an attribute of one has it loaded.
_LAZY = {
    *("river.datasets", "river.drift.datasets", "river.stream"),
    *("scipy.integrate", "scipy.sparse", "scipy.special", "scipy.stats"),
}


class _Finder(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module as Python does, to be loaded later."""
        spec = PathFinder.find_spec(name, path, target) if name in _LAZY else None
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


sys.meta_path.insert(0, _Finder())
