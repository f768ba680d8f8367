"""A relay in front of a database server that breaks a connection at a chosen message."""

import contextlib
import select
import socket
import threading
from collections.abc import Callable
from pathlib import Path


class CutProxy:
    """Listens in `directory` as the server in `server_directory` would, and passes everything on.

    `cut_request(text)`: when a client has sent `text`, the server gets nothing of it.
    `cut_answer(text)`: when the server has sent `text`, the client gets nothing of it.
    """

    def __init__(self, directory: Path, server_directory: Path) -> None:
        self._target = str(server_directory / ".s.PGSQL.5432")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / ".s.PGSQL.5432"))
        self._listener.listen()
        self._request = self._answer = b""
        self._then: Callable[[], object] = lambda: None
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_request(self, text: bytes) -> None:
        """Break the connection that next sends this."""
        self._request = text

    def cut_answer(self, text: bytes, then: Callable[[], object] = lambda: None) -> None:
        """Break the connection that is next sent this; first call `then`."""
        self._answer, self._then = text, then

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        with client, server, contextlib.suppress(OSError):
            server.connect(self._target)
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    data = ready.recv(1 << 20)
                    if not data or self._is_cut(data, from_client=ready is client):
                        return
                    (server if ready is client else client).sendall(data)

    def _is_cut(self, data: bytes, *, from_client: bool) -> bool:
        text = self._request if from_client else self._answer
        if not text or text not in data:
            return False
        self._request = self._answer = b""
        self.cuts += 1
        self._then()
        return True
