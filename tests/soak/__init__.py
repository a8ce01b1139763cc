"""The soak: an hour of load, recycling, rolling restarts and hangs, after which nothing has grown."""
