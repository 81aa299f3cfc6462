"""What a worker did, for a test to read: a line each, appended to the file that MARKS names."""

import os


def mark(word: str, name: object) -> int:
    """Note that; return how often it was noted."""
    line = f"{word} {name}\n"
    with open(os.environ["MARKS"], "a+", encoding="utf-8") as file:
        file.write(line)
        file.seek(0)
        return file.read().count(line)
