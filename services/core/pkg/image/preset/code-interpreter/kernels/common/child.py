"""Kernels whose code is run by a program of another language: it lives as long
as the kernel, takes cells on one descriptor, answers on another, and writes
where programs write."""

import array
import asyncio
import base64
import codecs
import fcntl
import json
import os
import signal
import sys
import termios

# The debugger, which no client has, would be a good part of the start.
sys.modules["debugpy"] = None
from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel

PIECE = 64 << 10
MAX_ANSWER = 64 << 20
ENVIRONMENT = "\0aetherium environment "


class Gone(Exception):
    """The program has ended."""


class ChildKernel(Kernel):
    """What is common; a language says how its program is started and told."""

    implementation = "aetherium"
    implementation_version = "1"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._child = None
        self._reading = []

    # A language has these.

    def program(self, cells, answers):
        """The command line of the program, which takes cells on the descriptor
        cells and answers on the other."""
        raise NotImplementedError

    def cell(self, code):
        """What the program is told to run code."""
        raise NotImplementedError

    def environment(self, what, env):
        """What the program is told to enter, leave or adopt an environment."""
        raise NotImplementedError

    def answer(self, line):
        """Sends what an answer says, and returns the reply to the client."""
        raise NotImplementedError

    async def _start(self):
        cells, to_child = os.pipe()
        from_child, answers = os.pipe()
        try:
            self._child = await asyncio.create_subprocess_exec(
                *self.program(cells, answers),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=(cells, answers),
                start_new_session=True,
            )
        finally:
            os.close(cells)
            os.close(answers)
        loop = asyncio.get_running_loop()
        self._cells = open(to_child, "wb", buffering=0)
        self._answers = asyncio.StreamReader(limit=MAX_ANSWER)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(self._answers), open(from_child, "rb", buffering=0))
        self._pipes = [("stdout", self._child.stdout), ("stderr", self._child.stderr)]
        self._reading = [asyncio.ensure_future(self._read(*p)) for p in self._pipes]

    async def _read(self, name, pipe):
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while True:
            data = await pipe.read(PIECE)
            text = decoder.decode(data, final=not data)
            if text and not self._silent:
                self.send_response(self.iopub_socket, "stream", {"name": name, "text": text})
            if not data:
                return

    async def _settle(self):
        """Lets what was written before an answer be told before it."""
        for _, pipe in self._pipes:
            fd = pipe._transport.get_extra_info("pipe").fileno() if not pipe.at_eof() else None
            waiting = array.array("i", [1])
            while fd is not None and not pipe.at_eof() and (waiting[0] or pipe._buffer):
                await asyncio.sleep(0)
                try:
                    fcntl.ioctl(fd, termios.FIONREAD, waiting)
                except (OSError, ValueError):  # it was closed meanwhile
                    break

    _silent = True

    async def do_execute(self, code, silent, store_history=True, user_expressions=None, allow_stdin=False, **_):
        self._silent = silent
        try:
            if self._child is None:
                await self._start()
            ours = silent and code.startswith(ENVIRONMENT)
            if ours:
                what, _, text = code[len(ENVIRONMENT) :].partition(" ")
                order = self.environment(what, json.loads(base64.b64decode(text)))
            else:
                order = self.cell(code)
            line = await self._ask(order)
            await self._settle()
            reply = self.answer(line) if not ours else {"status": "ok"}
        except Gone as e:
            await self._settle()
            for reading in self._reading:
                reading.cancel()
            self._child = None
            reply = self.failed("ProgramEnded", str(e))
        if reply["status"] == "ok":
            reply = {"status": "ok", "payload": [], "user_expressions": {}}
        return {**reply, "execution_count": self.execution_count}

    async def _ask(self, order):
        # What the program started may hold the descriptor beyond its end.
        answered = asyncio.ensure_future(self._tell(order))
        ended = asyncio.ensure_future(self._child.wait())
        await asyncio.wait([answered, ended], return_when=asyncio.FIRST_COMPLETED)
        line = await answered if answered.done() else b""
        for task in (answered, ended):
            task.cancel()
        if not line.endswith(b"\n"):
            try:
                self._child.kill()
            except ProcessLookupError:
                pass
            code = await self._child.wait()
            self._cells.close()
            raise Gone(f"the program ended with {code}; the next execution begins anew")
        return line

    async def _tell(self, order):
        try:
            await asyncio.get_running_loop().run_in_executor(None, write, self._cells, order)
            return await self._answers.readline()
        except (BrokenPipeError, ValueError):
            return b""

    def failed(self, name, value, traceback=()):
        content = {"ename": name, "evalue": value, "traceback": list(traceback)}
        if not self._silent:
            self.send_response(self.iopub_socket, "error", content)
        return {"status": "error", **content}

    def shown(self, data):
        if not self._silent:
            self.send_response(self.iopub_socket, "execute_result", {"execution_count": self.execution_count, "data": data, "metadata": {}})

    async def interrupt_request(self, stream, ident, parent):
        if self._child is not None and self._child.returncode is None:
            self.interrupt(self._child.pid)
        self.session.send(stream, "interrupt_reply", {"status": "ok"}, parent, ident=ident)

    def interrupt(self, pid):
        os.killpg(pid, signal.SIGINT)

    async def do_shutdown(self, restart):
        if self._child is not None and self._child.returncode is None:
            os.killpg(self._child.pid, signal.SIGKILL)
        return {"status": "ok", "restart": restart}


def write(to, data):
    view = memoryview(data)
    while view:
        view = view[to.write(view) :]


def main(kernel):
    IPKernelApp.launch_instance(kernel_class=kernel)
