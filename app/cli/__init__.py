"""The command line: parse, call one function. One module per command, each with a click command named ``command``."""
