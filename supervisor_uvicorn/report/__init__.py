"""What happened, told: events as values, and where they go."""
