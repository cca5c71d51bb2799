"""What means harm to a server: images, messages, and how they are sent and judged."""
