"""Environments of single executions. What a variable was before is put back."""

import base64
import json
import os
import random
import sys

_before, _drawn = [], []


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
    _draw_anew()


def _draw_anew():
    """Before the first code of a VM: what its memory began with, others'
    began with, too, and with it what they would draw by random."""
    if _drawn:
        return
    _drawn.append(True)
    random.seed()
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        numpy.seed()
