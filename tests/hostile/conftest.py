"""The service of the contract tests: all is real but the generator and the engine."""

from __future__ import annotations

from tests.contract.conftest import fake_engine, start_service, valkey

__all__ = ["fake_engine", "start_service", "valkey"]
