"""What correcting recorded images gives, and what recording costs."""
