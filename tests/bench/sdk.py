"""One side of the comparison of SDKs: python sdk.py e2b, or run|exec HOST IMAGE.

It says how long its package took to import, and then, for each line that it
reads, how long a machine took to be made, to run a command and to be removed:
a line of JSON each, in nanoseconds.
"""

import json
import sys
import time

clock = time.perf_counter_ns


def say(**what):
    print(json.dumps(what), flush=True)


def check(output):
    if output != "hi\n":
        raise RuntimeError(f"echo wrote {output!r}")


def e2b():
    """A sandbox, a command in it, and no sandbox."""
    from e2b import Sandbox

    def once():
        start = clock()
        sandbox = Sandbox.create()
        made = clock()
        output = sandbox.commands.run("echo hi").stdout
        ran = clock()
        check(output)
        gone = clock()
        sandbox.kill()
        return made - start, ran - made, clock() - gone

    return once


def run(host, image):
    """A container whose command it is: it cannot be told apart from its making."""
    import docker

    client = docker.DockerClient(base_url=host)
    name = "sdk-run"

    def once():
        start = clock()
        output = client.containers.run(image, ["echo", "hi"], name=name)
        ran = clock()
        check(output.decode())
        gone = clock()
        client.api.remove_container(name, force=True)
        return 0, ran - start, clock() - gone

    return once


def exec_(host, image):
    """A container that stays, and a command in it, as a sandbox has it."""
    import docker

    client = docker.DockerClient(base_url=host)

    def once():
        start = clock()
        container = client.containers.run(image, ["sleep", "infinity"], detach=True)
        made = clock()
        output = container.exec_run(["echo", "hi"]).output
        ran = clock()
        check(output.decode())
        gone = clock()
        container.remove(force=True)
        return made - start, ran - made, clock() - gone

    return once


def main():
    start = clock()
    once = {"e2b": e2b, "run": run, "exec": exec_}[sys.argv[1]](*sys.argv[2:])
    say(importing=clock() - start)
    for _ in sys.stdin:
        try:
            create, command, kill = once()
        except Exception as e:
            say(error=f"{type(e).__name__}: {e}")
            raise
        say(create=create, run=command, kill=kill)


main()
