"""The program: builds the parts, passes each what it needs, and starts and stops them."""
