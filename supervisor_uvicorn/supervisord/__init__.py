"""supervisord from outside: its event-listener protocol, without I/O, and an XML-RPC client with deadlines. Floor 1."""
