"""The verbs of a person: what is asked of the listener, and what it has told supervisord's memory.

They speak to supervisord alone, so they work from anywhere that supervisorctl works, and the same code serves
``supervisor-uvicorn VERB`` and ``supervisorctl uvicorn VERB``.
"""
