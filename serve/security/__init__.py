"""Token authentication, TLS, and checks of listening addresses."""
