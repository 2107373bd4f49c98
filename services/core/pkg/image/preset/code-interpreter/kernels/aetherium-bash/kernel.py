"""A kernel of bash: one shell, in which one cell runs after the other."""

import os
import re
import shlex
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "common"))
import child

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

# The shell's descriptors: of what it is asked, of its answers, and of errors.
CELLS, ANSWERS, ERRORS = 249, 250, 251


class BashKernel(child.ChildKernel):
    language_info = {"name": "bash", "mimetype": "text/x-sh", "file_extension": ".sh"}
    banner = "bash"

    def program(self, cells, answers):
        self._dir = tempfile.TemporaryDirectory(prefix="bash-")
        self._first = True
        # Interactive: an interrupt then ends the cell and not the shell. It
        # complains of having no terminal before it reads a word.
        begin = f"exec {CELLS}<&{cells} {ANSWERS}>&{answers} {ERRORS}>&2 2>/dev/null"
        shell = f"PS1= PS2= exec /bin/bash --noprofile --norc --noediting +m -i <&{CELLS} {CELLS}<&- {cells}<&- {answers}>&-"
        return ["/bin/bash", "-c", f"{begin}; {shell}"]

    def _order(self, text, redirect=""):
        path = os.path.join(self._dir.name, "cell")
        with open(path, "w", encoding="utf-8", errors="surrogateescape") as f:
            f.write(text + "\n")
        first = f"export -n PS1 PS2; unset HISTFILE; exec 2>&{ERRORS} {ERRORS}>&-\n" if self._first else ""
        self._first = False
        # The second line is read after the first has ended, or was interrupted.
        return f"{first}. {shlex.quote(path)} {redirect}\nprintf '%s\\n' $? >&{ANSWERS}\n".encode()

    def cell(self, code):
        return self._order(code, "</dev/null")

    def environment(self, what, env):
        lines = []
        for name, value in env.items():
            if NAME.match(name):
                if what == "enter":
                    lines.append(f'__aetherium_before+=("$(declare -p {name} 2>/dev/null || echo unset {name})")')
                lines.append(f"export {name}={shlex.quote(value)}")
        if what == "leave":
            lines.append('for __aetherium in "${__aetherium_before[@]}"; do eval "$__aetherium"; done; unset __aetherium __aetherium_before')
        return self._order("\n".join(lines))

    def answer(self, line):
        status = line.strip().decode(errors="replace")
        if status == "0":
            return {"status": "ok"}
        return self.failed("ExitStatus", status)


child.main(BashKernel)
