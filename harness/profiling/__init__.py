"""What is timed with, and on what machine."""
