"""Shared by all tests. Where the extension is not built, the tests that only decide about Python use a stand-in."""

import sys

from hypothesis import settings

settings.register_profile("bide", deadline=None)  # a loaded machine is slow now and then, which is no failure
settings.load_profile("bide")

try:
    import bide._core
except ImportError:
    for name in [name for name in sys.modules if name == "bide" or name.startswith("bide.")]:
        del sys.modules[name]
    import standin_core

    sys.modules["bide._core"] = standin_core
    import bide

    bide._core = standin_core
