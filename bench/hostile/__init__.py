"""What means harm to a server: pictures, messages, and how they are sent and judged."""
