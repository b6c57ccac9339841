"""What requests accept and carry, and answers as HTTP responses."""

import json

from aiohttp import web

from tests.apiserver import status
from tests.apiserver.status import ApiStatusError
from tests.apiserver.store import encode

_JSON = "application/json"


def wants_table(request: web.Request) -> bool:
    """Raises ApiStatusError (406) for somebody who takes neither JSON nor a Table."""
    accepted = request.headers.get("Accept", "*/*")
    if not any(kind in accepted for kind in (_JSON, "*/*", "application/*")):
        raise ApiStatusError(
            406, f"only the following media types are accepted: {_JSON}", reason="NotAcceptable"
        )
    return "as=Table" in accepted


async def body(request: web.Request) -> object:
    """Raises ApiStatusError: 415 for protobuf, which `kubectl create service` sends, 400 for what is no JSON."""
    if "json" not in request.content_type:
        raise ApiStatusError(
            415,
            f"the body was {request.content_type}; accepted here: {_JSON}, as from kubectl create -f",
        )
    try:
        return json.loads(await request.read())
    except ValueError as error:
        raise status.bad_request(f"the body is no JSON: {error}") from None


def json_response(body: bytes, code: int = 200, *, encoding: str = "") -> web.Response:
    """A document that is encoded already, and perhaps compressed."""
    headers = {"Content-Type": _JSON, "Cache-Control": "no-cache, private"}
    if encoding:
        headers["Content-Encoding"] = encoding
    return web.Response(body=body, status=code, headers=headers)


def failed(error: ApiStatusError) -> web.Response:
    """The Status of an error, with Retry-After if it says when to come again."""
    response = json_response(encode(error.document()), error.code)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response
