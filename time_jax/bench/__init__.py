"""Measurements that a user can repeat. Timed checks live here, not in tests."""
