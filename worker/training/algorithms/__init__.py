"""What one client computes in a round, one module each, behind one registry."""
