"""Worker processes of verifiers whose libraries may hang or crash, and what runs in them."""
