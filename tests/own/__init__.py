"""A network that this project does not have, written as a user would write it, on both sides."""
