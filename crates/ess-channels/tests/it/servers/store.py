"""moto's S3-compatible store for tests: it says which objects were put, a line for each, in their order."""

import sys
import threading
from typing import Any, Iterable

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

inner = DomainDispatcherApplication(create_backend_app)
#: One request at a time, so that the lines are in the order of the puts.
turn = threading.Lock()


def store(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    statuses: list[str] = []

    def start(status: str, *more: Any) -> Any:
        statuses.append(status)
        return start_response(status, *more)

    with turn:
        answer = list(inner(environ, start))
        path = environ["PATH_INFO"].strip("/")
        if environ["REQUEST_METHOD"] == "PUT" and "/" in path and statuses[-1].startswith("200"):
            print("TOOK", path, flush=True)
    return answer


class Kept(WSGIRequestHandler):
    """Keeps connections, and its peace."""

    protocol_version = "HTTP/1.1"

    def log(self, *words: Any) -> None:
        pass


serve = make_server("127.0.0.1", int(sys.argv[1]), store, threaded=True, request_handler=Kept)
print("LISTENING", serve.port, flush=True)
serve.serve_forever()
