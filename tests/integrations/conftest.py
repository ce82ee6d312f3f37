"""Nothing that a test registers or imports stays."""

from __future__ import annotations

import sys
import types

import pytest
from support.torch2trt_users import LIBRARY

from torch2edge.integrations.torch2trt import CONVERTERS


@pytest.fixture
def _registry():
    before = dict(CONVERTERS)
    yield
    CONVERTERS.clear()
    CONVERTERS.update(before)


@pytest.fixture
def library():
    """A user's library: functions, a class, and a module that has imported one by name."""
    lib, user = types.ModuleType("t2t_lib"), types.ModuleType("t2t_user")
    exec(LIBRARY, lib.__dict__)
    user.scaled = lib.scaled
    sys.modules.update({"t2t_lib": lib, "t2t_user": user})
    yield lib
    del sys.modules["t2t_lib"], sys.modules["t2t_user"]
