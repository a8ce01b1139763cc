"""supervisor-uvicorn: keeps uvicorn workers alive, well and upgradable under supervisord."""
