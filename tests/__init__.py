"""The tests, and what more than one of them needs."""
