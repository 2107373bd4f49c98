"""Environments of single executions. What a variable was before is put back."""

import base64
import json
import os

_before = []


def _read(text):
    return json.loads(base64.b64decode(text))


def enter(text):
    env = _read(text)
    _before.append({name: os.environ.get(name) for name in env})
    os.environ.update(env)


def leave(_=None):
    for name, value in (_before.pop() if _before else {}).items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def adopt(text):
    os.environ.update(_read(text))
