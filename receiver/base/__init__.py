"""What the dispatcher and the receiver both need, once. It imports neither."""
