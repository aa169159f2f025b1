"""A real S3 server in this process (moto's), and one that answers everything alike.

with S3Server() as s3: Storage.at(s3.bucket("name")) ...
"""

from __future__ import annotations

import contextlib
import http.server
import threading
import urllib.request
from collections.abc import Collection, Iterator
from typing import Any

import pyarrow.fs

KEYS = {"AWS_ACCESS_KEY_ID": "the-key-of-the-tests", "AWS_SECRET_ACCESS_KEY": "never-to-be-seen"}


class S3Server:
    """Starts the server and stops it.

    Args:
        host: Address to listen on, and by which it is called.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        from moto.server import ThreadedMotoServer

        self.host = host
        self._server = ThreadedMotoServer(ip_address=host, port=0, verbose=False)
        self._refused: tuple[str, Collection[str], list[str]] = ("/", (), [])

    def __enter__(self) -> S3Server:
        self._server.start()
        assert self._server._server is not None
        self._answer, self._server._server.app = self._server._server.app, self._take
        self.url = f"http://{self.host}:{self._server.get_host_and_port()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    def bucket(self, name: str) -> str:
        """Make a bucket; returns the address of a folder in it."""
        request = urllib.request.Request(f"{self.url}/{name}", method="PUT")
        with urllib.request.urlopen(request, timeout=30):
            return self.address(name)

    def address(self, bucket: str) -> str:
        """Address of the folder `runs` of a bucket."""
        return f"s3://{bucket}/runs?endpoint_override={self.url}"

    def fs(self) -> pyarrow.fs.FileSystem:
        """The server's files, past the code under test."""
        return pyarrow.fs.S3FileSystem(
            access_key="any", secret_key="any", region="us-east-1", endpoint_override=self.url
        )

    @contextlib.contextmanager
    def busy(self, place: str, clients: Collection[str]) -> Iterator[list[str]]:
        """Tell some who write below a place to try again, as S3 does when it is asked too often.

        Args:
            place: Bucket and folder.
            clients: Addresses of those who are told so.

        Yields:
            The addresses that tried, as they do.
        """
        tried: list[str] = []
        self._refused = (f"/{place}/", clients, tried)
        try:
            yield tried
        finally:
            self._refused = ("/", (), [])

    def _take(self, environ: dict[str, Any], start_response: Any) -> Any:
        """Answer a request (WSGI)."""
        place, clients, tried = self._refused
        client, writes = environ["REMOTE_ADDR"], environ["REQUEST_METHOD"] in ("POST", "PUT")
        if client in clients and writes and environ["PATH_INFO"].startswith(place):
            tried.append(client)
            start_response("503 Slow Down", [("Content-Length", "0")])
            return []
        return self._answer(environ, start_response)

    def names(self, place: str) -> list[str]:
        """Names of all objects below a place, without folders."""
        selector = pyarrow.fs.FileSelector(place, recursive=True, allow_not_found=True)
        found = self.fs().get_file_info(selector)
        files = [info.path for info in found if info.type == pyarrow.fs.FileType.File]
        return sorted(path.removeprefix(f"{place}/") for path in files)


@contextlib.contextmanager
def answering(status: int, body: str = "", **headers: str) -> Iterator[str]:
    """An endpoint that gives every request the same answer; the status 0 stands for none."""
    asked = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not status:
                asked.wait(60)
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_HEAD = do_PUT = do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        asked.set()
        server.shutdown()
        server.server_close()
