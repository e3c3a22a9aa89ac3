"""Decodes uploaded images: within a budget of memory, and in processes that can be stopped."""

MESSAGE_BYTES = 65_536
