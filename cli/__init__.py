"""The command line: click commands, YAML to configuration, what people see."""
