"""Studies as text."""
