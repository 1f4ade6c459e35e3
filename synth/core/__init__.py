"""Foundation: what every other package may import; it imports nothing but itself."""
