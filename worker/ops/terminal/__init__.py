"""Tables, live views, findings and numbers on a terminal."""
