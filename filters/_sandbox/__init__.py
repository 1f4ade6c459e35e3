"""Sandbox for untrusted code: bubblewrap, seccomp, resource limits and memory watch."""
