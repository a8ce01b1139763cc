"""What runs inside supervisor's own programs. What runs inside supervisord has no threads, waits for nothing and never
raises into it; it imports supervisor and the standard library only."""
