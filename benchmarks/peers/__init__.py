"""One small module for each peer; which benchmark takes which stands in the benchmark."""
