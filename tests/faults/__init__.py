"""The fault campaign: every kind of fault, at random moments, in random combination, and an oracle that judges."""
