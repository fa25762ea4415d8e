"""The reference pages, made from the code they describe; `make docs` writes them."""
