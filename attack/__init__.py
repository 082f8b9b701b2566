"""Attacks on the command line: broken inputs, kills, races and a stranger's folders."""
