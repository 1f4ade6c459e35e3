"""Models as a config asks for them, their layers, and the comparison of vocabularies."""
