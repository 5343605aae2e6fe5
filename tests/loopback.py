"""A web server on loopback that cuts the connection, sends a wrong file, or is slow."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """Serves `files` by name; `answer(handler, start)` may do so otherwise. `starts`: the offsets asked for."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.answer: Callable[[BaseHTTPRequestHandler, int], None] = self.whole
        self.ranges = True
        self.starts: list[int] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and outer.ranges else 0
                outer.starts.append(start)
                outer.answer(self, start)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def head(self, handler: BaseHTTPRequestHandler, start: int) -> bytes:
        """Sends the headers; what is to follow them."""
        content = self.files.get(handler.path.lstrip("/"))
        if content is None or start >= len(content):
            handler.send_error(404 if content is None else 416)
            return b""
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        return content[start:]

    def whole(self, handler: BaseHTTPRequestHandler, start: int) -> None:
        handler.wfile.write(self.head(handler, start))

    def cut_after(self, count: int) -> Callable[[BaseHTTPRequestHandler, int], None]:
        return self.stall_after(count, 0)

    def stall_after(self, count: int, seconds: float) -> Callable[[BaseHTTPRequestHandler, int], None]:
        def answer(handler: BaseHTTPRequestHandler, start: int) -> None:
            handler.wfile.write(self.head(handler, start)[:count])
            handler.wfile.flush()
            time.sleep(seconds)

        return answer

    def slowly(self, parts: int, seconds: float) -> Callable[[BaseHTTPRequestHandler, int], None]:
        def answer(handler: BaseHTTPRequestHandler, start: int) -> None:
            body = self.head(handler, start)
            size = max(1, -(-len(body) // parts))
            for at in range(0, len(body), size):
                time.sleep(seconds)
                handler.wfile.write(body[at : at + size])

        return answer


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Server]:
    server = Server(files)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        thread.join()
        server.http.server_close()
