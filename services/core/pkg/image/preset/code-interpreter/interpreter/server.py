"""The routes, their bounds and answers."""

import json

from aiohttp import web

from . import agent, contexts, kernel, languages

MAX_BODY = 16 << 20
MAX_ENV = 1024
MAX_NAME = 4096
KEEPALIVE = 5  # seconds of silence
LOOK = 0.5  # seconds between two looks whether the client is there


def make(pool, guard):
    """The application."""
    server = Server(pool, guard)
    app = web.Application(client_max_size=MAX_BODY, middlewares=[told])
    app.add_routes(
        [
            web.get("/health", server.health),
            web.post("/execute", server.execute),
            web.get("/contexts", server.list),
            web.post("/contexts", server.create),
            web.delete("/contexts/{id}", server.remove),
            web.post("/contexts/{id}/restart", server.restart),
        ]
    )
    return app


def refusal(status, text):
    return web.json_response({"code": status, "message": text}, status=status)


@web.middleware
async def told(request, handler):
    """Gives each error its answer."""
    try:
        return await handler(request)
    except BadRequest as e:
        return refusal(400, str(e))
    except contexts.Refused as e:
        return refusal(400, str(e))
    except contexts.NotFound:
        return refusal(404, f"Context {request.match_info.get('id', '')[:64] or 'of that ID'} not found")
    except contexts.Full as e:
        return refusal(429, str(e))
    except kernel.Failed as e:
        return refusal(500, f"the kernel could not be started: {e}")
    except agent.Refused:
        return refusal(401, "the access token is missing or wrong")
    except agent.Away:
        return refusal(503, "the VM's agent did not answer")
    except web.HTTPException as e:
        return refusal(e.status, e.reason)


class BadRequest(Exception):
    """The body is not as it should be."""


async def body(request):
    """The JSON object of a request, {} where there is none. Whatever its
    Content-Type says."""
    data = await request.read()
    if not data.strip():
        return {}
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON") from None
    if not isinstance(value, dict):
        raise BadRequest("the body is not an object")
    return value


def string(value, name, most=MAX_NAME):
    """A string of a body, None where it is not given."""
    found = value.get(name)
    if found is None:
        return None
    if not isinstance(found, str) or len(found) > most or "\0" in found and most == MAX_NAME:
        raise BadRequest(f"{name} is not a string, or too long")
    return found


def environment(value):
    env = value.get("env_vars")
    if env is None:
        return {}
    if not isinstance(env, dict) or len(env) > MAX_ENV:
        raise BadRequest(f"env_vars is not an object of at most {MAX_ENV} strings")
    for name, text in env.items():
        if not isinstance(text, str) or not name or "=" in name or "\0" in name + text:
            raise BadRequest("env_vars has what cannot be in an environment")
    return env


class Server:
    def __init__(self, pool, guard):
        self._pool = pool
        self._guard = guard

    async def health(self, _):
        return web.json_response({"status": "ok"})

    async def list(self, _):
        return web.json_response(self._pool.list())

    async def create(self, request):
        asked = await body(request)
        made = await self._pool.create(string(asked, "language"), string(asked, "cwd"))
        return web.json_response(made.told())

    async def remove(self, request):
        await self._pool.remove(request.match_info["id"])
        return web.Response(status=204)

    async def restart(self, request):
        await self._pool.get(request.match_info["id"]).restart({})
        return web.Response(status=204)

    async def execute(self, request):
        vm_env = await self._guard.environment(request.headers.get("X-Access-Token", ""))
        asked = await body(request)
        code = string(asked, "code", MAX_BODY)
        if code is None:
            raise BadRequest("code is missing")
        id, language, env = string(asked, "context_id"), string(asked, "language"), environment(asked)
        if id and language:
            raise BadRequest("only one of context_id and language can be given")
        context = self._pool.get(id) if id else await self._pool.default(language, vm_env)
        if env and languages.enter(context.language, env) is None:
            raise BadRequest(f"a {context.language} kernel takes no env_vars")
        run = context.execute(code, vm_env, env)
        try:
            return await self._stream(request, run.queue)
        finally:
            if not run.queue.done:
                run.gone()

    async def _stream(self, request, queue):
        answer = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        await answer.prepare(request)
        silent = 0.0
        while not queue.done:
            lines = await queue.take(LOOK)
            if request.transport is None or request.transport.is_closing():
                return answer
            silent = 0.0 if lines else silent + LOOK
            if silent >= KEEPALIVE:
                lines, silent = b'{"type":"keepalive"}\n', 0.0
            if lines:
                try:
                    await answer.write(lines)
                except ConnectionError:
                    return answer
        await answer.write_eof()
        return answer
