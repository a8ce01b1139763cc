"""What ``supervisor-uvicorn serve`` runs as the worker: uvicorn's server with another accept step and another end."""
