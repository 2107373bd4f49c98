"""Which kernels are installed, and how each is told of an environment."""

import base64
import json
import os

from jupyter_client.kernelspec import KernelSpecManager

PYTHON = "python"

# Other names of languages.
ALIASES = {"py": PYTHON, "python3": PYTHON, "js": "javascript", "ts": "typescript", "node": "javascript", "sh": "bash", "shell": "bash"}

OWN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "kernels")


def normal(name):
    """A language's name as it is told."""
    name = (name or PYTHON).strip().lower()
    return ALIASES.get(name, name)


class Languages:
    """The languages of the kernels that are installed: ours, and any other
    that Jupyter finds."""

    def __init__(self, own=OWN):
        self._own = own

    def specs(self):
        """Kernel specifications by language."""
        manager = KernelSpecManager(ensure_native_kernel=False)
        # Ours first: they know how environments are set.
        manager.kernel_dirs = [self._own, *manager.kernel_dirs]
        found = {}
        for name, where in manager.find_kernel_specs().items():
            spoken = language_of(where)
            if spoken is None:
                continue
            ours = os.path.dirname(where) == self._own
            # Ours have names of their own: Jupyter takes "python" for another.
            for language in {normal(spoken), normal(spoken if ours else name)}:
                if ours or language not in found:
                    found[language] = (name, manager)
        return found

    def names(self):
        return sorted(self.specs())


def language_of(where):
    """The language of a specification, None of one that cannot be read.
    Jupyter's own reader loads the whole of IPython's kernel for it."""
    try:
        with open(os.path.join(where, "kernel.json"), encoding="utf-8") as f:
            language = json.loads(f.read(1 << 16))["language"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return language if isinstance(language, str) and language else None


# How an environment is set in a running kernel without a trace of it in the
# user's names. What a variable was before is kept there, and put back.


def text(value):
    return base64.b64encode(json.dumps(value).encode()).decode()


def enter(language, env):
    """Code that sets env for one execution; None where there is no way."""
    return call(language, "enter", env)


def leave(language):
    """Code that undoes enter."""
    return call(language, "leave", {})


def adopt(language, env):
    """Code that sets env for good."""
    return call(language, "adopt", env)


def call(language, what, env):
    if language == PYTHON:
        return f"__import__('aetherium_environment').{what}({text(env)!r})"
    if language in ("bash", "javascript", "typescript"):
        return f"\0aetherium environment {what} {text(env)}"
    if language == "r" and what != "leave":
        assigned = ", ".join(f"{json.dumps(k)} = {json.dumps(v)}" for k, v in env.items())
        return f"invisible(do.call(Sys.setenv, list({assigned})))"
    return None
