"""Jobs and endpoints as values, and every decision about them: pure, free of IO."""
