"""The dispatcher: accepts job completions, stores them, signs them, delivers them, retries them."""

from typing import Final

VERSION: Final = "0.1.0"
