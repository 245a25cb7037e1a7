"""Servers of tars on this machine that count what they send."""

import contextlib
import http.server
import os
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path


class Counter:
    """Bytes that a server has sent of files, and answers."""

    def __init__(self) -> None:
        self.bytes = self.answers = 0
        self._lock = threading.Lock()

    def add(self, size: int) -> None:
        with self._lock:
            self.bytes, self.answers = self.bytes + size, self.answers + 1


class _Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, *args, counter: Counter, ranges: bool, **kwargs):
        self.counter, self.ranges = counter, ranges
        super().__init__(*args, **kwargs)

    def log_message(self, *args):
        pass

    def do_GET(self):
        try:
            data = Path(self.translate_path(self.path)).read_bytes()
        except OSError:
            self.send_error(404)
            return
        wanted = self.headers.get("Range", "") if self.ranges else ""
        size = len(data)
        if wanted:
            start, _, stop = wanted.removeprefix("bytes=").partition("-")
            data = data[int(start) : int(stop) + 1 if stop else size]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{int(start) + len(data) - 1}/{size}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.counter.add(len(data))


@contextlib.contextmanager
def web(directory: os.PathLike, ranges: bool = True) -> Iterator[tuple[str, Counter]]:
    """(URL, counter) of a web server; without `ranges` it sends whole files whatever is asked for."""
    counter = Counter()
    handler = partial(_Handler, directory=str(directory), counter=counter, ranges=ranges)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", counter
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def counted(port: int) -> Iterator[tuple[int, Counter]]:
    """(port, counter) of a relay to a server on `port`, which counts all that comes back, headers too."""
    counter, listener = Counter(), socket.create_server(("127.0.0.1", 0))

    def relay(source: socket.socket, target: socket.socket, counts: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
                if counts:
                    counter.add(len(data))
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", port))
                threading.Thread(target=relay, args=(near, far, False), daemon=True).start()
                threading.Thread(target=relay, args=(far, near, True), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1], counter
    finally:
        listener.close()
