"""What people look at and operate with."""
