"""Errors as the API answers them: a document of kind Status, and the HTTP status that goes with it.

Reasons, codes and the layout of `details` follow k8s.io/apimachinery (api/errors, apis/meta/v1).
"""

from collections.abc import Sequence

from tests.apiserver.resources import Object, Resource

_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    406: "NotAcceptable",
    409: "Conflict",
    410: "Expired",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class ApiStatusError(Exception):
    """A request that is answered with a Status."""

    def __init__(
        self,
        code: int,
        message: str,
        *,
        reason: str = "",
        details: Object | None = None,
        continue_token: str = "",
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_s = retry_after_s
        self._reason = reason or _REASONS.get(code, "Unknown")
        self._details = dict(details or {})
        self._continue_token = continue_token

    def document(self) -> Object:
        """The body of the answer, or the object of an ERROR event."""
        details = self._details
        if self.retry_after_s is not None:
            details = {**details, "retryAfterSeconds": self.retry_after_s}
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {"continue": self._continue_token} if self._continue_token else {},
            "status": "Failure",
            "message": str(self),
            "reason": self._reason,
            **({"details": details} if details else {}),
            "code": self.code,
        }


def success(resource: Resource, name: str, uid: str) -> Object:
    """What a deletion answers where the object itself is not sent back."""
    details = {"name": name, "group": resource.group, "kind": resource.name, "uid": uid}
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {key: value for key, value in details.items() if value},
    }


def bad_request(message: str) -> ApiStatusError:
    """The request cannot be understood."""
    return ApiStatusError(400, message)


def not_found(resource: Resource, name: str) -> ApiStatusError:
    """There is no such object."""
    return ApiStatusError(
        404, f'{resource.qualified} "{name}" not found', details=_about(resource, name)
    )


def already_exists(resource: Resource, name: str) -> ApiStatusError:
    """There is such an object already."""
    return ApiStatusError(
        409,
        f'{resource.qualified} "{name}" already exists',
        reason="AlreadyExists",
        details=_about(resource, name),
    )


def conflict(resource: Resource, name: str) -> ApiStatusError:
    """The object is not at the resourceVersion that the writer has seen."""
    return ApiStatusError(
        409,
        f'Operation cannot be fulfilled on {resource.qualified} "{name}": the object has been modified;'
        " please apply your changes to the latest version and try again",
        details=_about(resource, name),
    )


def unauthorized() -> ApiStatusError:
    """Nobody knows who asks."""
    return ApiStatusError(401, "Unauthorized")


def invalid_options(causes: Sequence[tuple[str, str]]) -> ApiStatusError:
    """Parameters that do not go together; a cause is a field and what is wrong with it."""
    listed = [
        {"reason": "FieldValueForbidden", "message": f"Forbidden: {message}", "field": name}
        for name, message in causes
    ]
    told = [f"{cause['field']}: {cause['message']}" for cause in listed]
    summary = told[0] if len(told) == 1 else f"[{', '.join(told)}]"
    return ApiStatusError(
        422,
        f'ListOptions.meta.k8s.io "" is invalid: {summary}',
        details={"group": "meta.k8s.io", "kind": "ListOptions", "causes": listed},
    )


def too_old(revision: int, oldest: int) -> ApiStatusError:
    """The history does not reach back that far."""
    return ApiStatusError(410, f"too old resource version: {revision} ({oldest})")


def expired_token(continue_token: str) -> ApiStatusError:
    """A list cannot be continued as it was begun; the token continues it with objects as they are now."""
    return ApiStatusError(
        410,
        "The provided continue parameter is too old to display a consistent list result. You can start a new list"
        " without the continue parameter, or use the continue token in this response to retrieve the remainder of"
        " the results. Continuing with the provided token results in an inconsistent list - objects that were"
        " created, modified, or deleted between the time the first chunk was returned and now may show up in the"
        " list.",
        continue_token=continue_token,
    )


def too_large(revision: int, current: int) -> ApiStatusError:
    """The server has not come that far yet, or not any more."""
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    return ApiStatusError(
        504,
        f"Timeout: Too large resource version: {revision}, current: {current}",
        details={"causes": [cause]},
        retry_after_s=1,
    )


def _about(resource: Resource, name: str) -> Object:
    group = {"group": resource.group} if resource.group else {}
    return {"name": name, **group, "kind": resource.name}
