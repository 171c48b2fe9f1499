"""What a server is started with: flags, environment, configuration file."""
