"""One kernel's process, and one execution at a time in it."""

import asyncio
import logging
import os
import shutil
import tempfile
import time

from jupyter_client.manager import AsyncKernelManager

from . import events, languages

log = logging.getLogger("kernel")

START = 120  # seconds that a kernel has to be ready
LINGER = 30  # seconds for the rest of the output, once the kernel has answered
LOOK = 1  # seconds between two looks whether the kernel lives
INTERRUPT_AGAIN = 10  # seconds until who is still busy is interrupted again


class Failed(Exception):
    """The kernel could not be started."""


class Kernel:
    """A running kernel. Made by start; end it with close."""

    def __init__(self, language, cwd):
        self.language = language
        self.cwd = cwd
        self.ended = False  # its process is gone
        self._dir = None  # of its sockets
        self._manager = None
        self._client = None
        self._readers = []
        self._running = None
        self._adopted = {}  # the VM's environment as it was last told

    @classmethod
    async def start(cls, spec, language, cwd, env):
        """Starts a kernel and waits until it is ready. Raises Failed."""
        kernel = cls(language, cwd)
        try:
            await kernel._start(*spec, env)
        except (Exception, asyncio.CancelledError) as e:
            await kernel.close()
            if isinstance(e, asyncio.CancelledError):
                raise
            raise Failed(str(e) or repr(e)) from e
        return kernel

    async def _start(self, name, specs, env):
        # Sockets in a directory of this user: another one's processes could
        # come to ports.
        self._dir = tempfile.mkdtemp(prefix="kernel-")
        self._manager = AsyncKernelManager(kernel_name=name, kernel_spec_manager=specs, transport="ipc")
        self._manager.connection_file = os.path.join(self._dir, "kernel.json")
        self._manager.ip = os.path.join(self._dir, "s")
        self._adopted = dict(env)
        await self._manager.start_kernel(cwd=self.cwd, env={**os.environ, **env})
        self._client = self._manager.client()
        self._client.start_channels(shell=True, iopub=True, stdin=False, hb=True, control=True)
        await self._client.wait_for_ready(timeout=START)
        self._readers = [asyncio.ensure_future(self._read(self._client.get_iopub_msg)), asyncio.ensure_future(self._read(self._client.get_shell_msg))]

    async def close(self):
        """Ends the kernel, and what runs in it."""
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        if self._client is not None:
            self._client.stop_channels()
        if self._manager is not None and self._manager.has_kernel:
            await self._manager.shutdown_kernel(now=True)
        self._end("ContextClosed", "the context was removed or restarted")
        if self._dir is not None:
            shutil.rmtree(self._dir, ignore_errors=True)

    def _end(self, name, value):
        self.ended = True
        if self._running is not None:
            self._running.fail(name, value)

    async def _read(self, next_message):
        """Takes every message off a channel: a publisher drops what nobody takes."""
        while True:
            try:
                message = await next_message(timeout=None)
            except (ValueError, KeyError, TypeError) as e:  # unsigned, or not a message
                log.warning("a message that is none: %r", e)
                continue
            running = self._running
            if running is not None and message.get("parent_header", {}).get("msg_id") == running.id:
                running.take(message)

    async def adopt(self, env):
        """Tells the kernel of the VM's environment where it is another than
        it was told of before."""
        if env == self._adopted:
            return
        new = {k: v for k, v in env.items() if self._adopted.get(k) != v}
        code = languages.adopt(self.language, new)
        if code is not None and new:
            await self.quietly(code)
        self._adopted = dict(env)

    async def quietly(self, code):
        """Runs code of ours, whose output is nobody's."""
        await self.execute(code, events.Queue(), silent=True)

    async def execute(self, code, queue, silent=False):
        """Runs code to its end, which queue is told of. One at a time."""
        if self.ended:
            queue.put(events.error("KernelEnded", "the kernel has ended"))
            queue.end()
            return
        self._running = running = Execution(queue)
        try:
            running.id = self._client.execute(code, silent=silent, store_history=not silent, allow_stdin=False, stop_on_error=False)
            while not await running.over(LOOK):
                if not await self._manager.is_alive():
                    self._end("KernelEnded", "the kernel ended while it ran this: by itself, or for want of memory")
        finally:
            self._running = None
            queue.end()

    async def interrupt(self):
        """Interrupts what runs; what does not heed it is interrupted again."""
        running = self._running
        while running is not None and not self.ended:
            await self._manager.interrupt_kernel()
            if await running.over(INTERRUPT_AGAIN):
                return


class Execution:
    """One execution under way."""

    def __init__(self, queue):
        self.id = None
        self._queue = queue
        self._over = asyncio.Event()
        self._failed = False
        self._linger = None
        self._answer = {}

    async def over(self, seconds):
        """Waits for the end that long; whether it is there."""
        try:
            await asyncio.wait_for(self._over.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def fail(self, name, value):
        if not self._over.is_set():
            self._error(name, value, "")
            self._finish()

    def _error(self, name, value, traceback):
        if not self._failed:
            self._failed = True
            self._queue.put(events.error(str(name), str(value), traceback))

    def _finish(self):
        if self._linger is not None:
            self._linger.cancel()
        # Kernels tell of an error beside the output; some in their answer alone.
        status = self._answer.get("status")
        if status == "error":
            self._error(self._answer.get("ename", "Error"), self._answer.get("evalue", ""), self._answer.get("traceback", ""))
        elif status in ("abort", "aborted"):
            self._error("ExecutionAborted", "the kernel did not run this", "")
        self._over.set()

    def take(self, message):
        """Takes a message of this execution."""
        kind, content = message["header"]["msg_type"], message["content"]
        if kind == "stream":
            name = "stderr" if content["name"] == "stderr" else "stdout"
            for event in events.output(name, content["text"], time.time_ns()):
                self._queue.put(event)
        elif kind in ("display_data", "execute_result"):
            self._queue.put(events.result(content["data"], kind == "execute_result"))
        elif kind == "error":
            self._error(content["ename"], content["evalue"], content["traceback"])
        elif kind == "execute_input":
            self._queue.put({"type": "number_of_executions", "execution_count": content["execution_count"]})
        elif kind == "status" and content["execution_state"] == "idle":
            self._finish()
        elif kind == "execute_reply":
            self._answer = content
            # That it is idle comes last on another channel, which may lose messages.
            self._linger = asyncio.get_running_loop().call_later(LINGER, self._finish)
