"""How fast it is, one module a question; `make bench` runs them all, nothing else imports them."""
