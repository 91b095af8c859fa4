"""The command line: `odeflow fit | validate | test | predict | plot | export | recipes | plugins`."""
