"""What is read out of a text, or made fit for people: boxes, a question's words, short lines."""
