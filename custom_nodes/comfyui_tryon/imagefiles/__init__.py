"""What image files look like: their parts, orientation and colour, and what a file is that is none."""
