"""The code interpreter of a VM: Jupyter kernels behind the HTTP interface that
the field's code-interpreter SDKs speak.

    main      the command line
    server    the routes, their bounds and answers
    contexts  which contexts there are: a kernel each, with a language and a directory
    kernel    one kernel's process, and one execution at a time in it
    events    what a kernel says, as lines for a client, and a bounded queue of them
    languages which kernels are installed, and how each is told of an environment
    agent     what the VM's agent knows: the environment, and who may come in
"""
