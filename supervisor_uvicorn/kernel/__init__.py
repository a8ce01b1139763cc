"""Floor 1: what the kernel tells of sockets and of other processes, typed, one job for each module.

Errors are those of :mod:`supervisor_uvicorn.kernel.errors` and nothing else.
"""
