"""A running server, as a client sees it."""

import contextlib
import http.client
import http.server
import json
import os
import socketserver
import subprocess
import tempfile
import threading
import unittest

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PYTHON = "/usr/bin/python3"  # which has Debian's packages


class Server:
    def __init__(self, *options, env=None):
        self.home = tempfile.TemporaryDirectory()
        self._process = subprocess.Popen(
            [PYTHON, "-I", HERE, "--port", "0", "--cwd", self.home.name, *options],
            stdout=subprocess.PIPE,
            env={**os.environ, "HOME": self.home.name, "MPLCONFIGDIR": self.home.name, **(env or {})},
        )
        line = self._process.stdout.readline().decode()
        if not line.startswith("listening on "):
            raise AssertionError(f"the server did not start: {line!r}")
        self.port = int(line.rsplit(":", 1)[1])

    def close(self):
        self._process.terminate()
        code = self._process.wait()
        self._process.stdout.close()
        self.home.cleanup()
        return code

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)

    def call(self, method, path, body=None, headers=None):
        """Status and body of an answer."""
        c = self.connect()
        with contextlib.closing(c):
            if body is not None and not isinstance(body, (bytes, str)):
                body = json.dumps(body)
            c.request(method, path, body, headers or {})
            answer = c.getresponse()
            data = answer.read()
        kind = answer.getheader("Content-Type") or ""
        return answer.status, json.loads(data) if kind.startswith("application/json") else data

    @contextlib.contextmanager
    def stream(self, code, headers=None, **body):
        """The events of an execution, as they come."""
        c = self.connect()
        with contextlib.closing(c):
            c.request("POST", "/execute", json.dumps({"code": code, **body}), headers or {})
            answer = c.getresponse()
            if answer.status != 200:
                raise AssertionError((answer.status, answer.read()))
            yield (json.loads(line) for line in answer)

    def run(self, code, **body):
        with self.stream(code, **body) as events:
            return Ran(list(events))


class Ran:
    """What an execution gave."""

    def __init__(self, events):
        self.events = events
        self.stdout, self.stderr = self._text("stdout"), self._text("stderr")
        self.results = self._of("result")
        self.errors = self._of("error")
        self.count = [e["execution_count"] for e in self._of("number_of_executions")]

    def _of(self, kind):
        return [e for e in self.events if e["type"] == kind]

    def _text(self, kind):
        return "".join(e["text"] for e in self._of(kind))

    @property
    def main(self):
        return next((r.get("text") for r in self.results if r["is_main_result"]), None)


class Agent(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """The agent's half of what the server asks: /envs, for who knows the token."""

    daemon_threads = True

    def __init__(self, path, token, env):
        self.token, self.env = token, env

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                known = self.headers.get("X-Access-Token", "") == self.server.token
                body = json.dumps(self.server.env).encode() if known else b""
                self.send_response(200 if known else 401)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def address_string(self):
                return "unix"

            def log_message(self, *_):
                pass

        super().__init__(path, Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self):
        self.shutdown()
        self.server_close()


class WithServer(unittest.TestCase):
    """Tests that share one server."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.addClassCleanup(cls.server.close)
