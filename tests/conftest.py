"""Property tests: new examples on a developer's machine, the same ones in continuous integration.

A rare example found by chance is a finding for whoever works on the code, and no reason for an
unrelated change to fail.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("dev", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")
