"""The story `privacy-gateway demo` tells, on the real product: nothing in here is a stand-in."""
