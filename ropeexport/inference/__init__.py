"""An exported folder in use: loaded, called as its module was, and put in that module's place."""
