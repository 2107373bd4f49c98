"""What the VM's agent knows: the environment, and who may come in."""

import json

import aiohttp

TIMEOUT = 10  # seconds
MAX_ANSWER = 2 << 20


class Refused(Exception):
    """The client showed no token, or a wrong one."""


class Away(Exception):
    """The agent did not answer as it should."""


class Nobody:
    """Stands in where there is no agent: everybody may, nothing is set."""

    async def environment(self, token):
        return {}

    async def close(self):
        pass


class Agent:
    """Asks the agent on its socket."""

    def __init__(self, socket):
        if socket.startswith("@"):
            socket = "\0" + socket[1:]
        self._socket = socket
        self._session = None

    async def environment(self, token):
        """The environment that the VM was given. Raises Refused where the
        agent does not know the token, and Away."""
        if self._session is None:
            # No connection is kept: one from before a snapshot leads nowhere.
            connector = aiohttp.UnixConnector(self._socket, force_close=True)
            self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=TIMEOUT))
        headers = {"X-Access-Token": token} if token else {}
        try:
            async with self._session.get("http://agent/envs", headers=headers) as answer:
                if answer.status == 401:
                    raise Refused()
                if answer.status != 200:
                    raise Away(f"status {answer.status}")
                body = await answer.content.read(MAX_ANSWER)
                if not answer.content.at_eof():
                    raise Away("too much")
                env = parse(body)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as e:
            raise Away(repr(e)) from e
        return env

    async def close(self):
        if self._session is not None:
            await self._session.close()


def parse(body):
    env = json.loads(body)
    if not isinstance(env, dict) or not all(isinstance(v, str) for v in env.values()):
        raise ValueError("not an environment")
    return env
