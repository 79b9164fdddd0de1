"""All errors that a caller can meet, as one tree; the status stands on the class.

GenadapterError
├── BadRequest 400
├── Unauthorized 401
├── NotFound 404
│   ├── AdapterNotFound
│   └── ModelNotFound
├── MethodNotAllowed 405
├── AdapterMismatch 409
├── NoState 409
├── TooLarge 413
├── UnsupportedType 415
├── Unprocessable 422
├── Busy 429
│   └── LimitReached: what a tenant or a key may have
└── ServerFault 500: what it is told is logged, never shown
    ├── AdapterDamaged
    ├── Unavailable 503
    │   ├── StoreUnavailable
    │   ├── EngineUnavailable
    │   ├── GeneratorUnavailable
    │   └── Stopping
    └── DeadlinePassed 504
"""

from __future__ import annotations

from typing import Any


class GenadapterError(Exception):
    status = 500
    type = "server_error"
    code = "internal_error"
    public = "Something went wrong here. Try again; if it stays, tell the operator the x-request-id."
    # Of an error that waiting may cure, where its raise does not know better.
    default_retry_after_s: float | None = None

    def __init__(
        self, message: str | None = None, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message or self.public)
        self.param = param
        self.retry_after_s = retry_after_s or self.default_retry_after_s

    @property
    def shown(self) -> str:
        """What the caller reads."""
        return str(self)

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.shown, "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        return {} if self.retry_after_s is None else {"Retry-After": str(max(1, round(self.retry_after_s)))}


class RequestError(GenadapterError):
    status, type, code = 400, "invalid_request_error", "invalid_request"
    public = "The request cannot be understood."


class BadRequest(RequestError):
    pass


class Unauthorized(RequestError):
    status, type, code = 401, "authentication_error", "invalid_api_key"
    public = "A valid API key is needed: send it as 'Authorization: Bearer KEY'."

    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class NotFound(RequestError):
    status, code = 404, "not_found"
    public = "There is nothing here; /docs lists what there is."


class AdapterNotFound(NotFound):
    """Unknown, expired and someone else's look alike: the message depends on nothing but the id that was sent."""

    code = "adapter_not_found"
    public = "No such adapter: it was never made, has expired or was deleted. Make it again with POST /contextualize."

    def __init__(
        self,
        message: str | None = None,
        *,
        param: str | None = None,
        adapter_id: str | None = None,
        foreign: bool = False,
    ) -> None:
        """`adapter_id` and `foreign` (somebody else's) are for the audit log alone."""
        super().__init__(message, param=param)
        self.adapter_id, self.foreign = adapter_id, foreign


class ModelNotFound(NotFound):
    code = "model_not_found"
    public = "No such model: use the base model's name or an adapter id; GET /v1/models lists both."


class MethodNotAllowed(RequestError):
    status, code = 405, "method_not_allowed"
    public = "This address does not take this method; /docs lists what there is."


class AdapterMismatch(RequestError):
    status, type, code = 409, "conflict_error", "adapter_mismatch"
    public = "This adapter was made for another base model or generator: make it again with POST /contextualize."


class NoState(RequestError):
    status, type, code = 409, "conflict_error", "no_state"
    public = (
        "This adapter cannot be appended to: it was made without keep_state, or its state has expired. "
        "Make it again with POST /contextualize and keep_state true."
    )


class TooLarge(RequestError):
    status, code = 413, "too_large"
    public = "The request is too large."


class UnsupportedType(RequestError):
    status, code = 415, "unsupported_type"
    public = "This content type is not supported."


class Unprocessable(RequestError):
    status, code = 422, "invalid_value"
    public = "A value is out of its range."


class Busy(RequestError):
    status, type, code = 429, "rate_limit_error", "busy"
    public = "Too much is waiting already: try again a little later."
    default_retry_after_s = 1.0


class LimitReached(Busy):
    code = "limit_reached"
    public = "You have as much as you may have: delete something, or wait."


class ServerFault(GenadapterError):
    """What is wrong inside: the message given at the raise goes to the log, the class's own to the caller."""

    @property
    def shown(self) -> str:
        return self.public


class AdapterDamaged(ServerFault):
    code = "adapter_damaged"
    public = "The stored adapter is damaged and is not used: make it again with POST /contextualize."


class Unavailable(ServerFault):
    status, type, code = 503, "service_unavailable_error", "unavailable"
    public = "A part of the service is down: try again shortly."
    default_retry_after_s = 2.0


class StoreUnavailable(Unavailable):
    code = "store_unavailable"
    public = "The adapter store cannot be reached or takes no writes at the moment: try again shortly."


class EngineUnavailable(Unavailable):
    code = "engine_unavailable"
    public = "The engine does not answer at the moment (it may be starting): try again shortly."
    default_retry_after_s = 5.0


class GeneratorUnavailable(Unavailable):
    code = "generator_unavailable"
    public = "The generator is not ready at the moment (it may be loading): try again shortly."
    default_retry_after_s = 5.0


class Stopping(Unavailable):
    code = "stopping"
    public = "This server is stopping: send the request again, another one will take it."
    default_retry_after_s = 1.0


class DeadlinePassed(ServerFault):
    status, type, code = 504, "timeout_error", "deadline_passed"
    public = "The deadline passed before the work was done: try again, or send less."
