"""Photos and clips: files in, RGB uint8 arrays of shape (height, width, 3) out, and back."""
