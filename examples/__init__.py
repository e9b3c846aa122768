"""Applications that show how the library is used; run them from the repository root."""
