"""The command line: `odeflow fit | validate | test | predict | plot | sample | export | recipes | plugins`."""
