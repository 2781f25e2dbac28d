"""What can be built: pure values, no torch, no files."""
