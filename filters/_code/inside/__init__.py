"""Modules that run inside the sandbox; they import only each other and the standard library."""
