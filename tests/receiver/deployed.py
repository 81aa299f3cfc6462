"""A module of deploy/receiver, loaded as it stands there."""

import importlib.util
from pathlib import Path
from types import ModuleType

DEPLOY = Path(__file__).parents[2] / "deploy" / "receiver"


def load_deployed(name: str) -> ModuleType:
    """A fresh one each time: its settings are read from the environment as it is now."""
    spec = importlib.util.spec_from_file_location(name, DEPLOY / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
