"""The pages of tables, and the script that writes them."""
