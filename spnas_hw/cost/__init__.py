"""What it costs: pure arithmetic on values, no torch, no files."""
