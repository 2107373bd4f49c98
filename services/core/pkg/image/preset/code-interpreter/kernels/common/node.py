"""A kernel of Node.js: one program, in which one cell runs after the other."""

import json
import os

import child

here = os.path.dirname(os.path.abspath(__file__))


class NodeKernel(child.ChildKernel):
    language = "javascript"

    def program(self, cells, answers):
        return ["node", os.path.join(here, "cells.js"), str(cells), str(answers), self.language]

    def cell(self, code):
        return order(code=code)

    def environment(self, what, env):
        return order(environment=what, env=env)

    def answer(self, line):
        answer = json.loads(line)
        if "error" in answer:
            return self.failed(answer["error"]["name"], answer["error"]["value"], [answer["error"]["stack"]])
        if "data" in answer:
            self.shown(answer["data"])
        return {"status": "ok"}


def order(**what):
    return (json.dumps(what) + "\n").encode()
