"""What dragon keeps in Redis: the names, the scripts, and the functions that call them."""
