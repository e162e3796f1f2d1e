"""Names of a package that are imported at their first use (PEP 562)."""

import importlib
from collections.abc import Callable, Mapping


def attributes(package: str, origins: Mapping[str, str]) -> Callable[[str], object]:
    """Makes the ``__getattr__`` of a package.

    Args:
      package: the package's ``__name__``.
      origins: public name -> full name of the module that defines it, or of the module it is.
    """

    def get(name: str) -> object:
        if name not in origins:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(origins[name])
        return module if origins[name] == f"{package}.{name}" else getattr(module, name)

    return get
