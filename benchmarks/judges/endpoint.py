"""Asking an OpenAI-compatible endpoint for one chat completion, patiently and without telling anyone where it is."""

from __future__ import annotations

import http.client
import json
import logging
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlparse

from benchmarks.judges.judging import JudgeError

URLS, KEY = ("OPENAI_BASE_URL", "OPENAI_API_BASE"), "OPENAI_API_KEY"
CALLS_OF_A_FAULT = 3  # whose replies are no completions, each so often in a row: the endpoint will not mend itself
TRIES_OF_A_FAULT = 3
SAY_SECONDS = 60.0
TRANSIENT = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}


_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Patience:
    """The number of tries of a call and the seconds between them: doubling from `first` to `longest`, or as the server
    asks.
    """

    tries: int = 10
    first: float = 1.0
    longest: float = 60.0
    timeout: float = 120.0


@dataclass(frozen=True)
class Endpoint:
    """The address of a judge. Its `repr` shows neither address nor key."""

    url: str = field(repr=False)
    key: str = field(repr=False)
    closed: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)
    # a rate limit holds for everybody who asks: the time before which nobody should
    open_from: list[float] = field(default_factory=lambda: [0.0], repr=False, compare=False)
    # calls by what is wrong with their replies, since the last completion
    faults: dict[str, set[str]] = field(default_factory=dict, repr=False, compare=False)
    faults_lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    quiet_until: list[float] = field(default_factory=lambda: [0.0], repr=False, compare=False)

    @classmethod
    def from_environment(cls) -> Endpoint:
        url = next((os.environ[name] for name in URLS if os.environ.get(name)), "https://api.openai.com/v1")
        key = os.environ.get(KEY, "")
        if not key and urlparse(url).hostname == "api.openai.com":
            raise ValueError(
                f"an api: judge needs {KEY} (and {URLS[0]} for another endpoint) in the environment;"
                " without one, judge with reward:MODEL or function:MODULE:FUNCTION"
            )
        return cls(url.rstrip("/"), key)

    def hidden(self, text: str) -> str:
        """`text` without key and address, which a server may echo."""
        for secret in filter(None, (self.key, self.url, urlparse(self.url).netloc, urlparse(self.url).hostname)):
            text = text.replace(secret, "…")
        return text

    def redacted(self, text: str) -> str:
        """The beginning of `text` on one line, without key and address."""
        return " ".join(self.hidden(text).split())[:200]

    def answered(self) -> None:
        """A completion came: whatever was wrong before is over."""
        with self.faults_lock:
            self.faults.clear()

    def failed(self, fault: str, key: str, attempt: int, said: str) -> None:
        """A reply came that is no completion. JudgeError once the same is wrong with several calls, tried again."""
        if attempt + 1 < TRIES_OF_A_FAULT:
            return
        with self.faults_lock:
            calls = self.faults.setdefault(fault, set())
            calls.add(key)
            number = len(calls)
        if number >= CALLS_OF_A_FAULT:
            raise JudgeError(
                f"the judge's endpoint gives {fault} for {number} different duels, {attempt + 1} times each:"
                f" {said!r}; is it an OpenAI-compatible endpoint with this model? What was judged so far is kept, run"
                " the same command again to go on"
            )

    def waiting(self, reason: str, seconds: float) -> None:
        """Say what is waited for, once a minute."""
        with self.faults_lock:
            quiet = time.monotonic() < self.quiet_until[0]
            if not quiet:
                self.quiet_until[0] = time.monotonic() + SAY_SECONDS
        if not quiet:
            _log.warning("waiting for the judge: %s; it is asked again in %.0f s", reason, seconds)


@dataclass(frozen=True)
class Reply:
    """`choice` is the first of the completion, with its words under `text` as alpaca_eval's parsers expect."""

    choice: Mapping[str, Any]
    num_tokens: int


# What an endpoint says (code or message) of a request that it will not look at, whoever asks and however often
DECLINED = (
    "content_filter",
    "content_policy",
    "content management",
    "different prompt",
    "context length",
    "context_length",
)


class Declined(Exception):
    """The endpoint does not look at this one request; others may go on."""


class _Transient(Exception):
    """Try again, after `wait` seconds if the server says so."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _Faulty(_Transient):
    """A reply with status 200 that is no completion; `fault` is the same for replies with the same thing wrong."""

    def __init__(self, fault: str, said: str) -> None:
        super().__init__(f"{fault}: {said!r}")
        self.fault, self.said = fault, said


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another address."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


def ask(endpoint: Endpoint, body: Mapping[str, Any], key: str, patience: Patience) -> Reply:
    """One completion. `key` names the call: sent along, so that a server that knows it need not charge a second time.

    Raises JudgeError if the server refuses, or answers none of the tries with a completion; Declined if it refuses this
    request alone.
    """
    waits = random.Random(key)  # spreads the tries of many callers, the same way each time
    reason = ""
    for attempt in range(patience.tries):
        pause = max(0.0, endpoint.open_from[0] - time.monotonic())
        if endpoint.closed.wait(pause) if pause else endpoint.closed.is_set():
            raise JudgeError("asking was called off")
        try:
            reply = _ask_once(endpoint, body, key, patience.timeout)
        except _Transient as error:
            reason = endpoint.redacted(str(error))
            if isinstance(error, _Faulty):
                endpoint.failed(error.fault, key, attempt, endpoint.redacted(error.said))
            backoff = min(patience.longest, patience.first * 2**attempt) * (0.5 + waits.random() / 2)
            wait = backoff if error.wait is None else min(patience.longest, max(error.wait, 0.0))
            if attempt:  # a single hiccup is nothing to speak of
                endpoint.waiting(reason, wait)
            if error.wait is not None:
                endpoint.open_from[0] = max(endpoint.open_from[0], time.monotonic() + wait)
            elif attempt + 1 < patience.tries:
                endpoint.closed.wait(wait)
        else:
            endpoint.answered()
            return reply
    raise JudgeError(
        f"the judge gave no completion in {patience.tries} tries, the last time: {reason};"
        " what it judged so far is kept, run the same command again to go on"
    )


def _ask_once(endpoint: Endpoint, body: Mapping[str, Any], key: str, timeout: float) -> Reply:
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    if endpoint.key:
        headers["Authorization"] = f"Bearer {endpoint.key}"
    request = urllib.request.Request(
        f"{endpoint.url}/chat/completions", data=json.dumps(body).encode(), headers=headers, method="POST"
    )
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout) as response:
            content = response.read()
    except urllib.error.HTTPError as error:
        with error:
            detail = endpoint.redacted(_message(error.read()))
        if error.code in TRANSIENT and "insufficient_quota" not in detail:
            raise _Transient(f"status {error.code} {detail}", _retry_after(error.headers.get("Retry-After"))) from None
        if error.code in (400, 413, 422) and any(sign in detail.lower() for sign in DECLINED):
            raise Declined(detail) from None
        raise JudgeError(f"the judge's endpoint refuses with status {error.code}: {detail}") from None
    except (OSError, http.client.HTTPException) as error:
        raise _Transient(type(error).__name__) from None  # its text may hold the address
    return _reply(content, endpoint)


def _reply(content: bytes, endpoint: Endpoint) -> Reply:
    try:
        document = json.loads(content)
    except ValueError:
        raise _Faulty("a reply that is no JSON", _shown(content)) from None
    if isinstance(document, dict) and document.get("error") and not document.get("choices"):
        said = _message(content)
        if any(sign in said.lower() for sign in DECLINED):
            raise Declined(endpoint.redacted(said))
        raise _Faulty("an error inside a reply", said)
    try:
        choice = document["choices"][0]
        message = choice["message"]
        text = message.get("content") or ""
        if function := message.get("function_call"):
            text = function["arguments"]
        if tools := message.get("tool_calls"):
            text = tools[0]["function"]["arguments"]
        usage = document.get("usage") or {}
        return Reply({**choice, "text": str(text)}, int(usage.get("total_tokens") or 0))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        raise _Faulty("a reply without a completion", _shown(content)) from None


def _shown(content: bytes) -> str:
    return content[:20_000].decode(errors="replace")


def _message(content: bytes) -> str:
    """The message in an error's body: code and message where it is OpenAI's JSON."""
    try:
        error = json.loads(content)["error"]
        if isinstance(error, str):
            return error
        return f"{error.get('code') or ''} {error.get('message') or ''}".strip()
    except (ValueError, TypeError, KeyError, AttributeError):
        return content[:200].decode(errors="replace")


def _retry_after(value: str | None) -> float | None:
    """Seconds, from seconds or a date."""
    if not value:
        return None
    try:
        return float(value)
    except ValueError:
        pass
    try:
        return (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return None
