"""An HTTP proxy before an S3 server that counts requests by method and fails chosen ones: with a status, or cut off."""

from __future__ import annotations

import collections
import http.client
import logging
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
BROKEN = b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"

Fault = Callable[[str, str, int], str | None]
"""(method, path, number of the request) -> None, "slow" (503), "error" (500), "cut", or "lost" (done, answer cut)."""


class Proxy(ThreadingHTTPServer):
    """Forward to 127.0.0.1:port.

    Attributes
    ----------
    seen : list of (method, path)
        Requests, in order of arrival.
    fault : callable
        What becomes of each.
    """

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = port
        self.seen: list[tuple[str, str]] = []
        self.failed = 0
        self.fault: Fault = lambda method, path, number: None
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def counts(self) -> dict[str, int]:
        """Requests by method since the last call of ``clear``."""
        return dict(collections.Counter(method for method, _ in self.seen))

    def clear(self) -> None:
        self.seen.clear()
        self.failed = 0

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that went away are part of the game."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two packets, and the second would wait 40 ms for an answer
    server: Proxy

    def log_message(self, *arguments: object) -> None:
        return

    def _serve(self) -> None:
        body = self._body()
        self.server.seen.append((self.command, self.path))
        fault = self.server.fault(self.command, self.path, len(self.server.seen))
        self.server.failed += fault is not None
        if fault in ("slow", "error"):
            self._answer(503 if fault == "slow" else 500, {}, SLOW_DOWN if fault == "slow" else BROKEN)
        elif fault == "cut":
            self.close_connection = True
            self.connection.close()
        else:
            status, headers, answer = self._forward(body)
            if fault == "lost":
                self.close_connection = True
                self.connection.close()
            else:
                self._answer(status, headers, answer)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _serve  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Expect"):
            self.send_response_only(100)
            self.end_headers()
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(pieces)

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("transfer-encoding", "expect")}
        headers["Content-Length"] = str(len(body))
        connection = http.client.HTTPConnection("127.0.0.1", self.server.target, timeout=60)
        try:
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = headers.get("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[int]:
    """Port of a moto S3 server on loopback."""
    from moto.server import ThreadedMotoServer
    from werkzeug.serving import WSGIRequestHandler

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    WSGIRequestHandler.disable_nagle_algorithm = True
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture
def s3(s3_server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """An empty bucket ``runs`` behind a fresh proxy, which every S3 client of this process uses."""
    import s3fs
    from botocore import retryhandler

    # The clients' own retries stay, without their seconds of back-off; s3fs has fewer, so that more faults get through.
    monkeypatch.setattr(retryhandler, "delay_exponential", lambda **options: 0.0)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 2)
    proxy = Proxy(s3_server)
    for name, value in (("AWS_ENDPOINT_URL", proxy.url), ("AWS_ACCESS_KEY_ID", "test"),
                        ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_DEFAULT_REGION", "us-east-1")):  # fmt: skip
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    if files.exists("runs"):
        files.rm("runs", recursive=True)
    files.mkdir("runs")
    proxy.clear()
    yield proxy
    proxy.fault = lambda method, path, number: None
    close_sessions()
    proxy.shutdown()
    proxy.server_close()


def close_sessions() -> None:
    """Close every S3 client in the loop that it lives in; left to the collector they warn of open connections."""
    import s3fs
    from fsspec.asyn import sync as fsspec_sync
    from zarr.core.sync import sync as zarr_sync

    for files in list(s3fs.S3FileSystem._cache.values()):
        session = getattr(files, "_s3", None)
        if session is not None and files.asynchronous:
            zarr_sync(session.close())
        elif session is not None:
            fsspec_sync(files.loop, session.close)
    s3fs.S3FileSystem.clear_instance_cache()
