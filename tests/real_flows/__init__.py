"""Small flows that a real worker runs in tests."""
