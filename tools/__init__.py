"""What `make` runs: executing the chapters, checking and building the book, filling in the README."""
