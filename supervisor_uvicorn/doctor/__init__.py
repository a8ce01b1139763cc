"""The verb ``doctor``: the known traps around uvicorn under supervisord, each found with its mend. Floor 4.

``reading`` (``conf``, ``machine``, ``running``) gives values (``configuration``, ``site``); the checks are pure
functions of those values, a module for each family; ``catalogue`` has all that can be found.
"""
