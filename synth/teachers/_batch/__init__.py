"""What the teachers that ask in batches share: the client's loop of attempts, and result files."""
