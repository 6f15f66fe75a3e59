"""Talking to the Hub: with a time limit, with patience, and with errors in one line that never hold a token."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import huggingface_hub
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils import _http as hub_http
from huggingface_hub.utils import logging as hub_logging

from mmcontrast.errors import ModelError

WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds between tries of what huggingface_hub itself tries only once."""
_PASSING = (408, 429, 500, 502, 503, 504)
_LONGEST = 300

T = TypeVar("T")
Say = Callable[[str], object]


@contextmanager
def session(timeout: float) -> Iterator[huggingface_hub.HfApi]:
    """A client whose requests end after `timeout` seconds without a byte.

    huggingface_hub waits for ever unless told otherwise, and its warnings show addresses with signatures in them:
    both are changed for the time of the session.
    """

    def limit(request: Any) -> None:
        given = request.extensions.get("timeout") or {}
        limits = {key: given.get(key) for key in ("connect", "read", "write", "pool")}
        request.extensions["timeout"] = {key: timeout if value is None else value for key, value in limits.items()}

    # The factory in use has no public name; one that the user has set (proxies, certificates) must go on to count.
    before = getattr(hub_http, "_GLOBAL_CLIENT_FACTORY", hub_http.default_client_factory)

    def limited() -> Any:
        client = before()
        hooks = client.event_hooks
        client.event_hooks = {**hooks, "request": [*hooks.get("request", []), limit]}
        return client

    verbosity = hub_logging.get_verbosity()
    hub_logging.set_verbosity(logging.ERROR)
    huggingface_hub.set_client_factory(limited)
    try:
        yield huggingface_hub.HfApi(library_name="mmcontrast")
    finally:
        huggingface_hub.set_client_factory(before)
        hub_logging.set_verbosity(verbosity)


def patiently(call: Callable[[], T], say: Say | None = None) -> T:
    """Call, and call again where the Hub or the line fails for a moment; the call must bear to be repeated."""
    for wait in WAITS:
        try:
            return call()
        except Exception as error:
            if not is_passing(error):
                raise
            if say is not None:
                say(f"{what_failed(error)}; once more in {wait:g} s")
        time.sleep(wait)
    return call()


def status(error: BaseException) -> int | None:
    """The HTTP status that an error, or one that it comes from, stands for."""
    while error is not None:
        code = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(code, int):
            return code
        error = error.__cause__  # type: ignore[assignment]
    return None


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed in a moment."""
    return status(error) in _PASSING or _is_cut(error) or _is_slow(error) or isinstance(error, json.JSONDecodeError)


def has_token() -> bool:
    """Whether huggingface_hub finds a token in one of its places."""
    try:
        return huggingface_hub.get_token() is not None
    except Exception as error:  # keyless login that fails
        raise ModelError(f"no token for the Hub: {one_line(error)}") from None


@contextmanager
def clear_errors(repo: str) -> Iterator[None]:
    """Turn whatever goes wrong into a `ModelError` of one line; its origin, which may quote headers, is left behind."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(explain(error, repo)) from None


def explain(error: Exception, repo: str) -> str:
    """What went wrong with a repository, and the mend, in one line."""
    code = status(error)
    if isinstance(error, hub_errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set: nothing can be pushed"
    if isinstance(error, hub_errors.HFValidationError):
        return f"{repo} is no name of a repository: {one_line(error)}"
    if code == 401:
        return f"{repo}: the Hub does not accept the token (401): log in with hf auth login, or set HF_TOKEN"
    if code == 403:
        return f"{repo}: the token may not write there (403): take one with the right to write{_server(error)}"
    if code == 404:
        return f"{repo}: not found on the Hub (404){_server(error)}"
    if code in (409, 412):
        return f"{repo} was changed by somebody else meanwhile ({code}): push again"
    if is_passing(error):
        return f"{repo}: {what_failed(error)}: nothing was published; push again, and what is uploaded already is kept"
    if code is not None:
        return f"{repo}: the Hub refuses ({code}){_server(error)}"
    return f"{repo} cannot be pushed: {one_line(error)}"


def what_failed(error: BaseException) -> str:
    """A few words for what may pass."""
    code = status(error)
    if code is not None:
        return f"the Hub answers {code}"
    if _is_slow(error):
        return "the Hub did not answer in time"
    return "the Hub answers nonsense" if isinstance(error, json.JSONDecodeError) else "the connection to the Hub broke"


def one_line(error: BaseException) -> str:
    """The first words of an error, without tokens."""
    text = " ".join(redact(str(error)).split()) or type(error).__name__
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def redact(text: str) -> str:
    """The text without tokens, and without the signatures that addresses of storage carry."""
    try:
        token = huggingface_hub.get_token()
    except Exception:
        token = None
    if token:
        text = text.replace(token, "***")
    text = re.sub(r"(?i)\bbearer\s+\S+", "Bearer ***", text)
    text = re.sub(r"\bhf_[A-Za-z0-9_]{6,}", "***", text)
    return re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]+", r"\1", text)


def _server(error: BaseException) -> str:
    """What the server says of it, if anything."""
    cause: BaseException | None = error
    while cause is not None:
        if message := getattr(cause, "server_message", None):
            return f": {one_line(ValueError(message))}"
        cause = cause.__cause__
    return ""


def _kinds(error: BaseException | None) -> set[str]:
    """Names of the classes of an error and its causes.

    huggingface_hub changed its HTTP library (requests, httpx, httpx2): their classes share names, not modules.
    """
    names: set[str] = set()
    while error is not None:
        names |= {kind.__name__ for kind in type(error).__mro__}
        error = error.__cause__
    return names


def _is_slow(error: BaseException) -> bool:
    return bool(_kinds(error) & {"TimeoutException", "TimeoutError"})


def _is_cut(error: BaseException) -> bool:
    return bool(_kinds(error) & {"TransportError", "ConnectionError"}) and "OfflineModeIsEnabled" not in _kinds(error)
