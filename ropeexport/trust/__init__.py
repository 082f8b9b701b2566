"""What may run of a folder that a stranger may have made, and signatures that say who made it."""
