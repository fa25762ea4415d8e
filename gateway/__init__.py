"""The front door: HTTP, operator commands, composition root. The only room that knows HTTP."""
