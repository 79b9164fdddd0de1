from tests.contract.conftest import fake_engine, service, start_service, valkey

__all__ = ["fake_engine", "service", "start_service", "valkey"]  # fixtures that start the service
