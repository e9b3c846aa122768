"""Implementations of the ports, one file each. Import the one you use; none is imported for you."""
