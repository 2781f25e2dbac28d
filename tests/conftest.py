from __future__ import annotations

from hypothesis import settings

# Nothing here asserts a time: a busy machine must not fail a property.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")
