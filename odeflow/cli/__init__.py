"""The command line: `odeflow fit | validate | test | predict | recipes | plugins`."""
