"""The errors of the project, one class for each answer to "who must act?".

They are raised at the borders (files, flags, API server, kernel) and caught in few places: the command line turns
`ConfigError` into exit status 2, the source retries on `ApiError`, the reconciler tries again after a `KernelError`.
Bad objects in the cluster are not errors but values: see `proxy.model.Rejected`. A failed assertion is our own bug and
takes the process down.
"""


class ProxyError(Exception):
    """Whatever this program raises on purpose. The text is complete: it names the thing and what to do about it."""


class ConfigError(ProxyError):
    """The operator must act: a setting is wrong. Names file or flag, field and what is allowed; exit status 2."""


class ApiError(ProxyError):
    """The API server did not answer as needed: try again later, with backoff and jitter.

    `status` is the HTTP status, or None where there was no answer at all.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Unsupported(ProxyError):  # noqa: N818 (states a fact about the host, and reads as one in `raise`)
    """This host lacks a feature that is needed; `feature` names it. Another backend may do without."""

    def __init__(self, feature: str, reason: str = "") -> None:
        super().__init__(f"{feature}: {reason}" if reason else feature)
        self.feature = feature
        self.reason = reason


class KernelError(ProxyError):
    """The kernel, or the tool in front of it, refused a request.

    `request` says what was asked in words, `errno` is the positive error number (0 where a tool gave none), and
    `message` is the kernel's or the tool's own text.
    """

    def __init__(self, request: str, errno: int, message: str) -> None:
        super().__init__(
            f"{request}: {message} (errno {errno})" if errno else f"{request}: {message}"
        )
        self.request = request
        self.errno = errno
        self.message = message


class Busy(KernelError):  # noqa: N818 (reads as a fact in `except`)
    """Nothing was done, since somebody else was in the way all the time: what was believed before still holds."""
