"""What only programs ask for: lists by the page, and requests that are safe to repeat."""
