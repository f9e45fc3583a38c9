"""Simulated feeds with known faults in them, for trying a job out and for holding it to account."""
