"""Long outputs and inputs: where they are kept, written as they come, and read again."""
