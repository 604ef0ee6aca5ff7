"""A TCP relay on loopback that counts what passes: faults and bytes on the real wire."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from types import TracebackType


class Relay:
    """Forward connections to (host, port), counting the bytes of each direction.

    Attributes
    ----------
    port : int
        Where to connect.
    up, down : int
        Bytes sent to the server, and received from it.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.up = self.down = 0
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._listener.close()
        for end in self._open:
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
                there = socket.create_connection(self._target)
            except OSError:
                return
            self._open += [here, there]
            for source, sink, count in ((here, there, self._sent), (there, here, self._received)):
                threading.Thread(target=self._pump, args=(source, sink, count), daemon=True).start()

    def _sent(self, count: int) -> None:
        self.up += count

    def _received(self, count: int) -> None:
        self.down += count

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket, count: Callable[[int], None]) -> None:
        try:
            while data := source.recv(1 << 16):
                count(len(data))
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return
