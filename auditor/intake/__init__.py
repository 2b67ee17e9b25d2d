"""Untrusted files: said what they are, checked, and parsed where they can do no harm."""
