"""Is it right: the reference executor and the comparisons made with it."""
