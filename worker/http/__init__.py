"""What we need of HTTP to talk to servers that are not ours."""
