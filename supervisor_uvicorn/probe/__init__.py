"""Floor 2: pinned connections, the pulse on them, and the HTTP probe over them.

``target`` has the values that go in and out, ``pins`` is what the look calls, ``acquire`` gets a connection that a
known worker has accepted, ``pin`` is one such connection, ``link`` its socket (plain, TLS, or a ClientHello that never
ends), ``http`` the finished head and what is made of its answer, ``answer`` how that is fetched through requests.
"""

from supervisor_uvicorn.probe.pins import Pins
from supervisor_uvicorn.probe.target import Request, Sight, Target

__all__ = ["Pins", "Request", "Sight", "Target"]
