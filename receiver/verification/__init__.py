"""What a request must pass before it is believed, and which job it names."""
