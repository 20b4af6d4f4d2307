"""What docs/extending.md adds, a file an extension, as a user would put it into `methods/` or `benchmarks/tasks/`.

`installed("slic")` imports one into the catalogues for the time of a `with`.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType

from benchmarks.tasks import TASKS
from methods import METHODS, OBJECTIVES, REGULARIZERS


@contextmanager
def installed(name: str) -> Iterator[ModuleType]:
    module = f"{__name__}.{name}"
    with ExitStack() as stack:
        for catalogue in (OBJECTIVES, REGULARIZERS, METHODS, TASKS):
            stack.enter_context(catalogue.temporarily())
        stack.callback(sys.modules.pop, module, None)
        yield importlib.import_module(module)
