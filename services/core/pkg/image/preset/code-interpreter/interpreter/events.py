"""What a kernel says, as lines for a client, and a bounded queue of them."""

import asyncio
import collections
import json
import math

# Of output that waits for its client, in bytes. What is past it is dropped,
# and said to be.
MAX_WAITING = 64 << 20
# A piece of text in one line.
MAX_TEXT = 1 << 20
# A traceback's text, and each of an error's others.
MAX_ERROR = 1 << 20

KINDS = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "text/latex": "latex",
    "application/json": "json",
    "application/javascript": "javascript",
    "e2b/data": "data",
    "e2b/chart": "chart",
}
BASE64 = ("png", "jpeg", "pdf")


def line(event):
    """An event as a client reads it. All of it is ASCII: clients decode piece
    by piece, and pieces end anywhere."""
    return (json.dumps(event, ensure_ascii=True, allow_nan=False, separators=(",", ":")) + "\n").encode()


def output(kind, text, at):
    """Events of output: at is in nanoseconds since 1970."""
    return [{"type": kind, "text": text[i : i + MAX_TEXT], "timestamp": at} for i in range(0, len(text), MAX_TEXT)]


def result(data, main):
    """The event of something shown."""
    event, extra = {"type": "result", "is_main_result": main}, {}
    for mime, value in data.items():
        kind = KINDS.get(mime)
        if kind is None:
            extra[mime] = value
            continue
        if isinstance(value, list) and kind != "json":
            value = "".join(value)
        if kind in BASE64 and isinstance(value, str):
            value = value.strip()
        # What a string is, not how Python writes it.
        if kind == "text" and len(value) > 1 and value.startswith("'") and value.endswith("'"):
            value = value[1:-1]
        event[kind] = value
    if extra:
        event["extra"] = extra
    return event


def error(name, value, traceback=""):
    if isinstance(traceback, list):
        traceback = "\n".join(traceback)
    return {"type": "error", "name": name[:MAX_ERROR], "value": value[:MAX_ERROR], "traceback": traceback[-MAX_ERROR:]}


class Queue:
    """The lines of one execution, on their way to its client."""

    def __init__(self, limit=MAX_WAITING):
        self._limit = limit
        self._lines = collections.deque()
        self._bytes = 0
        self._dropped = 0
        self._ended = False
        self._news = asyncio.Event()

    def put(self, event):
        """Adds an event; one that does not fit is dropped."""
        if self._ended:
            return
        try:
            data = line(event)
        except ValueError:  # not a number, or not text: JSON has neither
            data = line(plain(event))
        if event["type"] in ("stdout", "stderr", "result") and self._bytes + len(data) > self._limit:
            self._dropped += len(data)
            return
        self._tell_dropped()
        self._add(data)

    def _add(self, data):
        self._lines.append(data)
        self._bytes += len(data)
        self._news.set()

    def _tell_dropped(self):
        if self._dropped:
            text = f"[{self._dropped} bytes of output dropped: the client reads too slowly]\n"
            self._add(line({"type": "stderr", "text": text, "timestamp": 0}))
            self._dropped = 0

    def end(self):
        """Says that there is no more."""
        if not self._ended:
            self._tell_dropped()
            self._add(line({"type": "end_of_execution"}))
            self._ended = True

    @property
    def done(self):
        """Whether all of it was taken."""
        return self._ended and not self._lines

    async def take(self, seconds):
        """The lines there are, waiting for the first; empty when none came."""
        if not self._lines:
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), seconds)
            except TimeoutError:
                return b""
        # Not all at once: what waits is counted until it is written.
        taken, size = [], 0
        while self._lines and size < MAX_TEXT:
            data = self._lines.popleft()
            taken.append(data)
            size += len(data)
        self._bytes -= size
        return b"".join(taken)


def plain(value):
    """A value with nothing in it that JSON does not have."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, (str, int, bool)) or value is None:
        return value
    return str(value)
