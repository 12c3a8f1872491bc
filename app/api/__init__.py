"""The HTTP routes: a handler parses, makes one call, answers."""
