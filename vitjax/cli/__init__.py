"""What the command line programs share: flags, session, console output, results, timing."""
