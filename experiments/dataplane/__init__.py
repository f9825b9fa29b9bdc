"""What the data plane costs as everything in it grows, and what it stands of a flood."""
