"""supervisord's server URL, as it may be shown."""

from __future__ import annotations


def shown(server_url: str) -> str:
    """Without user info (RFC 3986, 3.2.1), which may be a password. supervisor knows none in its URLs, nor do we.

    Everything before the last "@" counts as such, since a password may hold any sign; only a unix socket's path may
    have an "@" of its own.

    >>> shown("http://user:p/@ss@127.0.0.1:9001")
    'http://127.0.0.1:9001'
    >>> shown("user:pass@127.0.0.1:9001"), shown("unix:///run/a@b.sock")
    ('127.0.0.1:9001', 'unix:///run/a@b.sock')
    """
    if "@" not in server_url or server_url.startswith("unix:"):
        return server_url
    scheme, slashes, rest = server_url.partition("://")
    return scheme + slashes + rest.rpartition("@")[2] if slashes else server_url.rpartition("@")[2]
