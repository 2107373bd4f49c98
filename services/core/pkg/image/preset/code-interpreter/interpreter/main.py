"""The command line."""

import argparse
import asyncio
import logging
import signal

from aiohttp import web

from . import agent, contexts, languages, server

DEFAULT_PORT = 49999


def arguments():
    parser = argparse.ArgumentParser(prog="code-interpreter", description="Runs code in Jupyter kernels, for clients over HTTP.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="port to listen on; 0 is any (default: %(default)s)")
    parser.add_argument("--agent", metavar="SOCKET", help="unix socket of the VM's agent, @ for an abstract one: whom it knows may execute code")
    parser.add_argument("--cwd", help="directory of contexts that name none (default: the user's home)")
    return parser.parse_args()


async def serve(options):
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    guard = agent.Agent(options.agent) if options.agent else agent.Nobody()
    pool = contexts.Contexts(languages.Languages(), cwd=options.cwd)
    runner = web.AppRunner(server.make(pool, guard), access_log=None, handle_signals=False)
    await runner.setup()
    try:
        # Who finds the port open finds the first context there, too.
        await pool.default(languages.PYTHON)
        site = web.TCPSite(runner, options.host, options.port, shutdown_timeout=1)
        await site.start()
        host, port = runner.addresses[0][:2]
        print(f"listening on {host}:{port}", flush=True)
        await ended.wait()
    finally:
        await pool.close()
        await runner.cleanup()
        await guard.close()


def main():
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    asyncio.run(serve(arguments()))
