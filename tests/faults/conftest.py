"""The services that the faults are done to."""

from __future__ import annotations

from tests.integration.conftest import make_service

__all__ = ["make_service"]
