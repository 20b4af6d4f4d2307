"""An OpenAI-compatible endpoint on this machine that fails as real ones do, and counts what it sells."""

import contextlib
import hashlib
import http.server
import json
import math
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

FAILURES = ("rate_limit", "server_error", "hang_up", "garbage", "no_choices")
NAMED = '"model_identifier": "M"'


@dataclass
class Stub:
    """`share` of all calls fail, each in its way. `sold` counts completions by their Idempotency-Key, under which a
    call that comes again is answered and not charged again."""

    share: float = 0.0
    failures: tuple[str, ...] = FAILURES
    always: str | None = None  # one failure, for every call
    delay: float = 0.0  # seconds before each answer
    stall_at: int | None = None  # so many are sold, then no call is answered
    content: str | None = None  # of every completion, instead of a verdict
    retry_after: str | None = "0"
    url: str = ""
    asked: Counter = field(default_factory=Counter)
    sold: Counter = field(default_factory=Counter)
    requests: list = field(default_factory=list)
    headers: list = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    go_on: threading.Event = field(default_factory=threading.Event)
    stalled: int = 0
    port: int = 0  # any that is free, and the same one when the server comes back

    def release(self):
        """Let go of the calls that hang; later ones may hang again."""
        waiting, self.go_on, self.stalled = self.go_on, threading.Event(), 0
        waiting.set()

    def failure(self, call):
        if self.always:
            return self.always
        digest = hashlib.sha256(f"{call} {self.asked[call]}".encode()).digest()
        if digest[0] < 256 * self.share:
            return self.failures[digest[1] % len(self.failures)]
        return None

    def completion(self, body):
        """The first response wins with .9 if it is good, .4 if not: a judge that likes the first place."""
        first = body["messages"][-1]["content"].partition(NAMED)[0]
        share = 0.9 if "good" in first else 0.4
        logprobs = [{"token": t, "logprob": math.log(p)} for t, p in (("m", share), ("M", 1 - share))]
        message = {"role": "assistant", "content": "m" if self.content is None else self.content}
        shown = {"content": [{"token": "m", "logprob": 0.0, "top_logprobs": logprobs if self.content is None else []}]}
        choice = {"index": 0, "finish_reason": "length", "message": message, "logprobs": shown}
        return {"id": "x", "object": "chat.completion", "choices": [choice], "usage": {"total_tokens": 123}}


@contextlib.contextmanager
def judge_server(stub):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            content = self.rfile.read(int(self.headers["Content-Length"]))
            body, call = json.loads(content), self.headers["Idempotency-Key"]
            time.sleep(stub.delay)
            with stub.lock:
                stub.asked[call] += 1
                stub.requests.append(body)
                stub.headers.append(dict(self.headers))
                failure = stub.failure(call)
                stall = stub.stall_at is not None and sum(stub.sold.values()) >= stub.stall_at
                stub.stalled += stall
                if failure in (None, "lost_reply") and not stall and call not in stub.sold:
                    stub.sold[call] += 1
            if stall:
                stub.go_on.wait(60)
                self.close_connection = True
                return None
            return self.fail(failure) if failure else self.send(200, json.dumps(stub.completion(body)).encode())

        def fail(self, kind):
            self.close_connection = True
            if kind in ("hang_up", "lost_reply"):
                return None
            if kind == "garbage":
                return self.send(200, b"<html>busy</html>")
            if kind == "error_inside":
                echoed = f"no such model for {self.headers['Authorization']} at {stub.url}"
                return self.send(200, json.dumps({"error": {"message": echoed}}).encode())
            if kind == "no_choices":
                return self.send(200, b'{"choices": []}')
            status = {
                "rate_limit": 429,
                "server_error": 503,
                "refused": 401,
                "quota": 429,
                "moved": 307,
                "filtered": 400,
            }[kind]
            code = {"quota": "insufficient_quota", "filtered": "content_filter"}.get(kind, kind)
            echoed = f"{self.headers['Authorization']} at {stub.url}"
            return self.send(status, json.dumps({"error": {"code": code, "message": echoed}}).encode())

        def send(self, status, content):
            self.send_response(status)
            if status == 429 and stub.retry_after is not None:
                self.send_header("Retry-After", stub.retry_after)
            if status == 307:
                self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

        def handle(self):
            with contextlib.suppress(ConnectionError):  # a killed client
                super().handle()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", stub.port), Handler)
    server.daemon_threads = True
    with server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        stub.port = server.server_port
        stub.url = f"http://127.0.0.1:{stub.port}/v1"
        yield stub
        stub.go_on.set()
        server.shutdown()
