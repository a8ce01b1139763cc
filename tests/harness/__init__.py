"""Real parts for the tests: supervisord, uvicorn workers, the listener, and clients of one chosen worker."""
