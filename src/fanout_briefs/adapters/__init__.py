"""Implementations of the ports, one module each. Import the one you use; none is imported for you."""
