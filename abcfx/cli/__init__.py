"""The command line. Each command is a module with HELP, EXAMPLE, add_arguments(parser) and run(arguments) → code."""
