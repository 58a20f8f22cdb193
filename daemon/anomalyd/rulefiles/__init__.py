"""Rules files: read with every problem at once, written, and changed in the user's own text."""
