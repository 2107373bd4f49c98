# The front door. The two commands that matter:
#   make up     install what is missing, build, start, and show the main job
#   make test   install what tests need and run every test
# `make help` lists the rest. The work is in Makefile.root and in each module's Makefile.
include Makefile.root
