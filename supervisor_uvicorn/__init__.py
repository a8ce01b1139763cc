"""supervisor-uvicorn: keeps uvicorn workers alive, well and upgradable under supervisord."""

__version__ = "0.1.0"
