"""The GPU of this machine: what it is, a profile of it, measuring on it."""
