"""The briefs of the site: who wants one, what is in it, and the commands that make and explain them."""
