"""The results of a run as an HTML page and as tables on the terminal."""
