"""Starts IPython's kernel with what clients of the code interpreter expect of
it: environments for one execution, and data of tables and charts."""

import os
import sys

here = os.path.dirname(os.path.abspath(__file__))
sys.path[0] = here
import aetherium_charts  # noqa: F401
import aetherium_environment  # noqa: F401
import aetherium_formats

# The debugger, which no client has, would be a good part of the start.
sys.modules["debugpy"] = None
from ipykernel.kernelapp import IPKernelApp

del sys.modules["debugpy"]

# As in an interactive session, modules beside the code are found.
sys.path[0] = ""
app = IPKernelApp.instance()
app.initialize()
aetherium_formats.install(app.shell)
app.start()
