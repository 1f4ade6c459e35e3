"""Code verification: code blocks, test formats, jobs for the sandbox, comparison."""
