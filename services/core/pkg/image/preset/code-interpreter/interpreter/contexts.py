"""Which contexts there are: a kernel each, with a language and a directory."""

import asyncio
import collections
import os
import secrets

from . import events, kernel, languages

MAX_CONTEXTS = 64
# Executions of one context that wait for their turn.
MAX_WAITING = 64


class NotFound(Exception):
    """There is no such context."""


class Refused(Exception):
    """It cannot be, and why."""


class Full(Exception):
    """There is no room for more."""


class Context:
    """A kernel that may be started anew, and those who wait for their turn in it."""

    def __init__(self, language, cwd, spec):
        self.id = secrets.token_hex(16)
        self.language = language
        self.cwd = cwd
        self._spec = spec
        self._kernel = None
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._changing = asyncio.Lock()
        self._removed = False

    def told(self):
        return {"id": self.id, "language": self.language, "cwd": self.cwd}

    async def start(self, env):
        """Starts the kernel, where it does not run. Raises kernel.Failed."""
        async with self._changing:
            if self._removed:
                raise NotFound()
            if self._kernel is None or self._kernel.ended:
                if self._kernel is not None:
                    await self._kernel.close()
                self._kernel = None
                self._kernel = await kernel.Kernel.start(self._spec, self.language, self.cwd, env)
        return self._kernel

    async def restart(self, env):
        """Ends the kernel, and with it what runs, and starts another."""
        async with self._changing:
            if self._kernel is not None:
                await self._kernel.close()
        await self.start(env)

    async def close(self):
        self._removed = True
        async with self._changing:
            if self._kernel is not None:
                await self._kernel.close()

    def execute(self, code, vm_env, env):
        """Runs code once it is its turn, with env set for as long as it runs.
        What it says is in the queue that is returned; gone is to be called when
        nobody reads that any more. Raises Full."""
        if self._waiting >= MAX_WAITING:
            raise Full(f"{MAX_WAITING} executions wait in this context")
        run = Run(self, code, vm_env, env)
        self._waiting += 1
        run.task = asyncio.ensure_future(run.carry_out())
        run.task.add_done_callback(self._left)
        return run

    def _left(self, _):
        self._waiting -= 1


class Run:
    """An execution from its wait to its end."""

    def __init__(self, context, code, vm_env, env):
        self.queue = events.Queue()
        self.task = None
        self._context, self._code, self._vm_env, self._env = context, code, vm_env, env
        self._kernel = None
        self._abandoned = False
        self._interrupting = None

    async def carry_out(self):
        try:
            async with self._context._turn:
                if not self._abandoned:
                    await self._run()
        except NotFound:
            self.queue.put(events.error("ContextClosed", "the context was removed"))
        except kernel.Failed as e:
            self.queue.put(events.error("KernelNotStarted", str(e)))
        finally:
            self.queue.end()
            if self._interrupting is not None:
                self._interrupting.cancel()

    async def _run(self):
        language = self._context.language
        running = await self._context.start(self._vm_env)
        await running.adopt(self._vm_env)
        if self._env:
            await running.quietly(languages.enter(language, self._env))
        if not self._abandoned:
            self._kernel = running
            await running.execute(self._code, self.queue)
            self._kernel = None
        if self._env and languages.leave(language) is not None:
            await running.quietly(languages.leave(language))

    def gone(self):
        """The client has gone: what runs for it is interrupted. The context
        has its next turn when it has ended."""
        self._abandoned = True
        if self._kernel is not None:
            self._interrupting = asyncio.ensure_future(self._kernel.interrupt())


class Contexts:
    """The contexts of this VM."""

    def __init__(self, installed, cwd=None):
        self._installed = installed
        self._cwd = cwd or os.path.expanduser("~")
        self._all = {}
        self._defaults = {}  # IDs by language
        self._making = collections.defaultdict(asyncio.Lock)

    def list(self):
        return [c.told() for c in self._all.values()]

    def get(self, id):
        """Raises NotFound."""
        try:
            return self._all[id]
        except KeyError:
            raise NotFound() from None

    async def default(self, language, env=None):
        """The context of who names none, made at its first use."""
        language = languages.normal(language)
        found = self._all.get(self._defaults.get(language))
        if found is not None:
            return found
        self._known(language)
        async with self._making[language]:
            found = self._all.get(self._defaults.get(language))
            if found is None:
                found = await self.create(language, None, env)
                self._defaults[language] = found.id
            return found

    def _known(self, language):
        language, specs = languages.normal(language), self._installed.specs()
        if language not in specs:
            raise Refused(f"no kernel for {language[:64]!r} is installed; there are {', '.join(sorted(specs))}")
        return language, specs[language]

    async def create(self, language, cwd, env=None):
        """Raises Refused, Full and kernel.Failed."""
        language, spec = self._known(language)
        cwd = cwd or self._cwd
        if not os.path.isabs(cwd):
            cwd = os.path.join(self._cwd, cwd)
        if not os.path.isdir(cwd):
            raise Refused(f"{cwd!r} is not a directory")
        if len(self._all) >= MAX_CONTEXTS:
            raise Full(f"there are {MAX_CONTEXTS} contexts; remove one first")
        context = Context(language, cwd, spec)
        self._all[context.id] = context  # counted from now on
        try:
            await context.start(env or {})
        except BaseException:
            self._all.pop(context.id, None)
            raise
        return context

    async def remove(self, id):
        """Raises NotFound."""
        context = self.get(id)
        del self._all[id]
        await context.close()

    async def close(self):
        contexts, self._all = list(self._all.values()), {}
        await asyncio.gather(*(c.close() for c in contexts))
