"""The connection to Redis (or Valkey, or a cluster of either): its pool, its timeouts, its one more try."""

from __future__ import annotations

from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

# A pooled connection that a restart of the server has cut is noticed at its next use; one more try, on a fresh one,
# hides that.
RECONNECT_TRIES = 1
RECONNECT_PAUSE_S = 0.05


def open_client(url: str, timeout_s: float, connections: int) -> Any:
    """A client with a bounded pool; `redis+cluster://` and `rediss+cluster://` reach a cluster."""
    options: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "protocol": 2,
        "retry": Retry(ConstantBackoff(RECONNECT_PAUSE_S), RECONNECT_TRIES, supported_errors=(RedisConnectionError,)),
    }
    scheme, _, rest = url.partition("://")
    if scheme.endswith("+cluster"):
        return RedisCluster.from_url(
            f"{scheme.removesuffix('+cluster')}://{rest}", max_connections=connections, **options
        )
    pool = BlockingConnectionPool.from_url(url, max_connections=connections, timeout=timeout_s, **options)
    return Redis.from_pool(pool)
