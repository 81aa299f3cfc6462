"""The routes of the platforms whose clients may point at us: each dialect's own paths, words and
manners."""
